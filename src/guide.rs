//! The pages of the repository about this crate. The [documentation of the crate](crate#guide)
//! lists them by purpose.

// Only rustdoc compiles this. It also tests the code on the pages, and runs it unless it is marked
// `no_run`. `guide.html` has the names of methods to which code on the pages is linked, and the
// script that does so and rewrites the pages' links. It is left out of the tests, which would be
// named after its file.

// For the names in `guide.html`.
use crate::cookie::CookieConfig;
use crate::cross_origin::CrossOrigin;
use crate::manager::{SessionManager, SessionManagerBuilder};
use crate::session::Session;
use crate::stores::cached::{CachedStore, CachedStoreBuilder};
#[cfg(feature = "memcached")]
use crate::stores::memcached::{MemcachedStore, MemcachedStoreBuilder};
#[cfg(feature = "postgres")]
use crate::stores::postgres::{PostgresStore, PostgresStoreBuilder};
#[cfg(all(feature = "sqlite", unix))]
use crate::stores::sqlite::{SqliteStore, SqliteStoreBuilder};

macro_rules! pages {
    ($($name:ident: $path:literal;)*) => {$(
        #[doc = include_str!($path)]
        #[cfg_attr(not(doctest), doc = include_str!("guide.html"))]
        pub mod $name {}
    )*};
}

pages! {
    api_clients: "../docs/api-clients.md";
    architecture: "../docs/architecture.md";
    asvs: "../docs/asvs.md";
    backups: "../docs/backups.md";
    changelog: "../CHANGELOG.md";
    comparison: "../docs/comparison.md";
    configuration: "../docs/configuration.md";
    cookies: "../docs/cookies.md";
    deployment: "../docs/deployment.md";
    design: "../DESIGN.md";
    devices: "../docs/devices.md";
    errors: "../docs/errors.md";
    events: "../docs/events.md";
    forms: "../docs/forms.md";
    getting_started: "../docs/getting-started.md";
    guarantees: "../docs/guarantees.md";
    identity_providers: "../docs/identity-providers.md";
    ids: "../docs/ids.md";
    lifetime: "../docs/lifetime.md";
    moving: "../docs/moving.md";
    operating: "../docs/operating.md";
    own_tables: "../docs/own-tables.md";
    performance: "../docs/performance.md";
    platforms: "../docs/platforms.md";
    postgresql: "../docs/postgresql.md";
    reliability: "../RELIABILITY.md";
    rescue: "../docs/rescue.md";
    scaling: "../docs/scaling.md";
    security: "../SECURITY.md";
    servers: "../docs/servers.md";
    signing_in: "../docs/signing-in.md";
    stores: "../docs/stores.md";
    taking_over: "../docs/taking-over.md";
    terms: "../docs/terms.md";
    testing: "../docs/testing.md";
    upgrading: "../UPGRADING.md";
    values: "../docs/values.md";
}

// The command line tests the code of this page.
#[cfg(not(doctest))]
#[doc = include_str!("../docs/commands.md")]
#[doc = include_str!("guide.html")]
pub mod commands {}

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
