//! Bodies that an API or a route would let in and the gateway does not.

use crate::config::Config;
use crate::document::{Mistake, Severity};
use crate::revision::Loaded;

/// One warning for each bound that never counts. No mistake: the same revision may serve gateways that allow more.
pub fn findings(config: &Config, loaded: &Loaded) -> Vec<Mistake> {
    let most = config.server.limits.body_bytes;
    let apis = loaded.revision.apis.iter().zip(&loaded.places);
    let bounds = apis.flat_map(|(api, places)| {
        let own = api.body_bytes.map(|bytes| (&api.name, places.api, bytes));
        let routes = api.routes.iter().zip(&places.routes);
        let of_routes = routes.filter_map(|(route, place)| {
            let bytes = route.edits.as_ref()?.body_bytes?;
            Some((&api.name, *place, bytes))
        });
        own.into_iter().chain(of_routes)
    });
    bounds
        .filter(|(_, _, bytes)| *bytes > most)
        .map(|(api, place, bytes)| {
            let text = format!(
                "api \"{api}\": body_bytes of {bytes} bytes never counts but for gRPC, because server.limits.body_bytes of \
                 this gateway lets in {most} at most; lower it, or raise that one"
            );
            loaded.source.mistake(place, Severity::Warning, text)
        })
        .collect()
}
