// The set-up link carries its token behind the #, so that no server log and no Referer holds it.
// Take it out of the address bar and hand it over. Without JavaScript the person pastes the link.
"use strict";

const token = window.location.hash.slice(1);
if (token) {
  window.history.replaceState(null, "", window.location.pathname);
  document.getElementById("token").value = token;
  document.getElementById("setup-link").submit();
}
