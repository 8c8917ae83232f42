"use strict";

// The page of the REST API: Swagger UI on our own document, sending the session's CSRF token.
(() => {
  const place = document.getElementById("api");
  const changes = (method) => !["GET", "HEAD"].includes((method || "GET").toUpperCase());
  // What Swagger UI leaves out of an operation that is opened: a name for the body's field, and the
  // keyboard's way into an example that scrolls.
  new MutationObserver(() => {
    for (const field of place.querySelectorAll(".body-param textarea:not([aria-label])")) {
      field.setAttribute("aria-label", "Request body");
    }
    for (const example of place.querySelectorAll(".microlight:not([tabindex])")) {
      example.setAttribute("tabindex", "0");
    }
  }).observe(place, { childList: true, subtree: true });
  window.SwaggerUIBundle({
    url: place.dataset.document,
    domNode: place,
    deepLinking: false, // its links would stand inside of buttons, where no screen reader finds them
    persistAuthorization: false,
    validatorUrl: null,
    supportedSubmitMethods: ["get", "post", "put", "patch", "delete"],
    docExpansion: "list",
    requestInterceptor: (request) => {
      const own = new URL(request.url, window.location.href).origin === window.location.origin;
      if (own && changes(request.method)) {
        request.headers["X-CSRFToken"] = place.dataset.csrf;
      }
      return request;
    },
  });
})();
