// URL parts: the components of a parsed URL, and how they become text again. (URL standard, sections 4.1 and 4.5.)
//
// A path is a list of segments, or a string when it is opaque ("mailto:a@b").

export const defaultPorts = { __proto__: null, ftp: 21, file: null, http: 80, https: 443, ws: 80, wss: 443 };
export const isSpecial = (scheme) => scheme in defaultPorts;

const normalDriveLetter = /^[a-zA-Z]:$/;
export const isNormalDriveLetter = (segment) => normalDriveLetter.test(segment);

export class Parts {
  scheme = "";
  username = "";
  password = "";
  host = null;
  port = null;
  path = [];
  query = null;
  fragment = null;

  get special() {
    return isSpecial(this.scheme);
  }

  get opaque() {
    return typeof this.path === "string";
  }

  get hasCredentials() {
    return this.username !== "" || this.password !== "";
  }

  get cannotHaveCredentials() {
    return this.host === null || this.host === "" || this.scheme === "file";
  }

  // Remove the path's last segment, but not a drive letter alone.
  shorten() {
    const path = this.path;
    if (this.scheme === "file" && path.length === 1 && isNormalDriveLetter(path[0])) return;
    path.pop();
  }

  takeAuthority(other) {
    this.username = other.username;
    this.password = other.password;
    this.host = other.host;
    this.port = other.port;
  }

  get pathText() {
    return typeof this.path === "string" ? this.path : this.path.length === 0 ? "" : "/" + this.path.join("/");
  }

  serialize(withoutFragment = false) {
    let out = this.scheme + ":";
    if (this.host !== null) {
      out += "//";
      if (this.hasCredentials) out += this.username + (this.password === "" ? "" : ":" + this.password) + "@";
      out += this.host;
      if (this.port !== null) out += ":" + this.port;
    } else if (!this.opaque && this.path.length > 1 && this.path[0] === "") {
      out += "/.";
    }
    out += this.pathText;
    if (this.query !== null) out += "?" + this.query;
    if (!withoutFragment && this.fragment !== null) out += "#" + this.fragment;
    return out;
  }
}
