"use strict";

// The page of the REST API: Swagger UI on our own document, sending the session's CSRF token.
(() => {
  const place = document.getElementById("api");
  const changes = (method) => !["GET", "HEAD"].includes((method || "GET").toUpperCase());
  window.SwaggerUIBundle({
    url: place.dataset.document,
    domNode: place,
    deepLinking: true,
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
