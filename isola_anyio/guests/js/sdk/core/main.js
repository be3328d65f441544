// Main: loads the SDK, and hands the host the functions that it calls (`handles.py`, in `__isola`; boot.py deletes it).

import "isola:globals";
import { collapse, dispatch, pump } from "isola:dispatcher";
import { install } from "isola:door";
import { onRejection } from "isola:logs";
import { adopt, adoptModule, refuse, refuseWith } from "isola:scripts";

globalThis.__isola = { adopt, adoptModule, collapse, dispatch, install, onRejection, pump, refuse, refuseWith };
