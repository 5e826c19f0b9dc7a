//! The cross-origin check, before a request is routed.
//!
//! A fairing cannot answer a request. A refused request therefore becomes a `CONNECT`: no page can
//! send this method, no application answers it, and a route for it sends the refusal.

use rocket::fairing::{Fairing, Info, Kind};
use rocket::http::{ContentType, Method, Status};
use rocket::response::Responder;
use rocket::route::{self, Route};
use rocket::{Data, Request};

use crate::cross_origin::REFUSED;
use crate::manager::SessionManager;
use crate::web::rocket::guards;

/// The fairing that checks requests for one manager.
pub(super) struct OriginCheck(pub(super) SessionManager);

/// Whether the request is refused.
struct IsRefused(bool);

#[rocket::async_trait]
impl Fairing for OriginCheck {
    fn info(&self) -> Info {
        Info { name: "cloakroom cross-origin check", kind: Kind::Request }
    }

    async fn on_request(&self, request: &mut Request<'_>, _: &mut Data<'_>) {
        let head = guards::head(&self.0, request);
        if self.0.decide_and_report_origin(&head).is_refusal() {
            request.local_cache(|| IsRefused(true));
            request.set_method(Method::Connect);
        }
    }
}

/// Returns the route that answers refused requests.
pub(super) fn route() -> Route {
    let mut route = Route::ranked(isize::MIN, Method::Connect, "/<_..>", answer);
    route.name = Some("cloakroom cross-origin check".into());
    route
}

fn answer<'r>(request: &'r Request<'_>, data: Data<'r>) -> route::BoxFuture<'r> {
    let outcome = if request.local_cache(|| IsRefused(false)).0 {
        let text = (Status::Forbidden, (ContentType::Plain, REFUSED));
        text.respond_to(request).map_or_else(route::Outcome::Error, route::Outcome::Success)
    } else {
        route::Outcome::forward(data, Status::NotFound)
    };
    Box::pin(std::future::ready(outcome))
}
