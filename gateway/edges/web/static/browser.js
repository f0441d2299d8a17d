// Proves with each form that this is the browser that signed in (RFC 9449). The private key is made here once, cannot be
// read by any script, this one included, and never leaves the browser. No inline script, no library.
"use strict";

const gateway = (() => {
  const PATIENCE = 90_000; // ms: longer than a cookie that another tab has asked for can stay away
  const loadedAt = Number(document.documentElement.dataset.at); // the gateway's clock: this machine's may be off
  const loadedHere = Date.now();
  const passed = () => Math.max(performance.now(), Date.now() - loadedHere) / 1000; // the first stands still in sleep
  const encode = (text) => new TextEncoder().encode(text);
  const base64url = (buffer) => {
    const characters = Array.from(new Uint8Array(buffer), (byte) => String.fromCharCode(byte)).join("");
    return btoa(characters).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
  };
  const answered = (request) =>
    new Promise((resolve, reject) => {
      request.onsuccess = () => resolve(request.result);
      request.onerror = () => reject(request.error);
    });
  const kept = (transaction) =>
    new Promise((resolve, reject) => {
      transaction.oncomplete = resolve;
      transaction.onabort = () => reject(transaction.error);
    });

  const readKey = async () => {
    if (!window.crypto?.subtle || !window.indexedDB) throw new Error("This browser keeps no keys here: it needs https, or localhost.");
    const opening = indexedDB.open("gateway", 1);
    opening.onupgradeneeded = () => opening.result.createObjectStore("keys");
    const base = await answered(opening);
    const known = await answered(base.transaction("keys").objectStore("keys").get("browser"));
    if (known) return known;
    const made = await crypto.subtle.generateKey({ name: "ECDSA", namedCurve: "P-256" }, false, ["sign"]);
    const writing = base.transaction("keys", "readwrite");
    const store = writing.objectStore("keys");
    const first = await answered(store.get("browser")); // another tab may have been faster, and its key is bound
    if (first) return first;
    store.put(made, "browser");
    await kept(writing);
    return made;
  };

  // For one request (RFC 9449 §4.2). `token` is the page's, which is derived from the cookie that no script can read.
  const proof = async (method, path, token) => {
    const { privateKey, publicKey } = await readKey();
    const { kty, crv, x, y } = await crypto.subtle.exportKey("jwk", publicKey);
    const url = new URL(path, location.href);
    const claims = {
      jti: base64url(crypto.getRandomValues(new Uint8Array(16))),
      htm: method,
      htu: url.origin + url.pathname,
      iat: loadedAt + Math.floor(passed()),
      ath: base64url(await crypto.subtle.digest("SHA-256", encode(token))),
    };
    const parts = [{ typ: "dpop+jwt", alg: "ES256", jwk: { kty, crv, x, y } }, claims];
    const signed = parts.map((part) => base64url(encode(JSON.stringify(part)))).join(".");
    const signature = await crypto.subtle.sign({ name: "ECDSA", hash: "SHA-256" }, privateKey, encode(signed));
    return `${signed}.${base64url(signature)}`;
  };

  // A JSON body to this site; with `csrf` in it, proven.
  const post = async (path, body) => {
    const proven = body.csrf ? { dpop: await proof("POST", path, body.csrf) } : {};
    const answer = await fetch(path, {
      method: "POST",
      headers: { "content-type": "application/json", ...proven },
      credentials: "same-origin",
      body: JSON.stringify(body),
    });
    const text = await answer.text();
    const isJson = (answer.headers.get("content-type") ?? "").includes("json"); // a proxy's own words are not
    const value = isJson && text ? JSON.parse(text) : null;
    if (answer.ok) return value;
    const said = value?.detail ?? `The gateway answered ${answer.status}.`;
    throw Object.assign(new Error([said, ...(value?.next_steps ?? [])].join(" ")), { code: value?.code });
  };

  const proving = new WeakSet(); // forms that wait for their proof, or are sent with it just now
  const submitProven = async (event) => {
    const form = event.target; // whose properties may be hidden by fields of the same name, such as `action`
    const token = form.elements.namedItem("csrf");
    if (form.getAttribute("method") !== "post" || !token || form.dataset.proven) return;
    event.preventDefault();
    if (proving.has(form)) return;
    proving.add(form);
    const { submitter } = event; // its name and value say which button it was
    const field = Object.assign(document.createElement("input"), { type: "hidden", name: "proof" });
    try {
      field.value = await proof("POST", form.getAttribute("action"), token.value);
    } catch {
      field.value = ""; // the gateway says what is missing
    }
    form.append(field);
    form.dataset.proven = "yes";
    form.requestSubmit(submitter); // which collects the fields at once, so that a page one comes back to is as it was
    field.remove();
    delete form.dataset.proven;
    proving.delete(form);
  };

  const wait = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));
  const remember = (began) => {
    try {
      sessionStorage.setItem("proving", String(began));
    } catch {
      // where nothing is kept, nobody waits for another tab
    }
  };
  const began = () => {
    try {
      const then = Number(sessionStorage.getItem("proving"));
      return Date.now() - then < 2 * PATIENCE ? then : 0;
    } catch {
      return 0;
    }
  };

  const goOn = async (place) => {
    const since = began();
    remember(since || Date.now());
    try {
      if (since && Date.now() - since > PATIENCE) throw new Error("It takes too long. Open the page again, or sign in anew.");
      if (since) await wait(1000);
      await post("/api/browser/prove", { csrf: place.dataset.csrf });
      location.reload();
    } catch (error) {
      if (error.code === "csrf") return location.reload(); // another tab has got the new cookie meanwhile
      remember(0);
      place.textContent = error.message;
      place.append(" ", Object.assign(document.createElement("a"), { href: "/login", textContent: "Sign in" }));
    }
  };

  document.addEventListener("submit", submitProven);
  document.addEventListener("DOMContentLoaded", () => {
    const place = document.getElementById("prove");
    if (place) goOn(place);
    else remember(0);
  });
  return { post };
})();
