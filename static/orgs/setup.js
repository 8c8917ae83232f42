// The set-up link carries its token behind the #, so that no server log and no Referer holds it.
// Take it out of the address bar and hand it over. Without JavaScript the person pastes the link.
"use strict";

function useToken() {
  const token = window.location.hash.slice(1);
  if (!token) return;
  window.history.replaceState(null, "", window.location.pathname);
  document.getElementById("token").value = token;
  document.getElementById("setup-link").submit();
}

useToken();
// The page may be open already when the link is followed: then only the part behind the # changes.
window.addEventListener("hashchange", useToken);
