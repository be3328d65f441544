// What does the host hold on to? These functions, in this order; see `driver.py`.

import "isola:globals";
import * as dispatcher from "isola:dispatcher";
import { install } from "isola:door";

globalThis.__isola = { ...dispatcher, install };
