//! The review of a configuration: the requirements of OWASP ASVS 5.0 and NIST SP 800-63B-4 that it
//! meets, and those that it does not.
//!
//! Applications and the command `doctor` call it.

use std::fmt;
use std::time::Duration;

use crate::backend::{Capabilities, MaxSessions};
use crate::context::Context;
use crate::cookie::{CookieConfig, SameSite};
use crate::event::{EventKind, Events};
use crate::id::Realm;
use crate::lifetime::{AtMaximum, Lifetime};
use crate::manager::SessionManager;
use crate::policy::{Policy, humanize};
use crate::settings::{IdCarrier, IdSettings, Settings};

/// One requirement, and whether the configuration meets it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// The requirement: a number of OWASP ASVS 5.0, or a level of NIST SP 800-63B-4. Three are not
    /// of these standards: `renewal` of ids by their age (the renewal timeout of OWASP's cheat
    /// sheet), `anonymous` for bounds of anonymous sessions, and `separation` from other
    /// applications.
    pub requirement: &'static str,
    /// The part of the configuration that decides this.
    pub area: Area,
    /// Whether the configuration meets the requirement.
    pub met: bool,
    /// The setting that decides this; if the requirement is not met, also the remedy.
    pub why: String,
}

/// The part of a configuration that a [`Finding`] is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Area {
    /// The attributes of the cookie, or the header that carries the id in its place.
    Cookie,
    /// The idle and the absolute limit of sessions.
    Limits,
    /// Requests that pages of other origins send.
    Origins,
    /// The lifetime and the number of anonymous sessions.
    Anonymous,
    /// Any other part. Many of its findings are choices of the application, such as the number of
    /// sessions of a user.
    Other,
}

/// The findings for a configuration: the requirements of OWASP ASVS 5.0 and NIST SP 800-63B-4 that
/// it meets, and those that it does not. [`SessionManager::review`] returns them.
///
/// Use them for the application's security documentation, which ASVS 7.1.1 and 7.1.2 require, and
/// in a test that the configuration stays as documented. `Display` writes one line for each
/// finding.
///
/// ```
/// use cloakroom::{MemoryStore, SessionManager};
///
/// let sessions = SessionManager::new(MemoryStore::new())?;
/// for finding in sessions.review().unmet() {
///     println!("{}: {}", finding.requirement, finding.why);
/// }
/// # Ok::<(), cloakroom::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Review {
    /// All findings, met and unmet.
    pub findings: Vec<Finding>,
}

impl Review {
    /// Iterates over the unmet requirements.
    pub fn unmet(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| !finding.met)
    }

    /// Returns whether a requirement is met; false for a requirement that the review does not
    /// contain.
    #[must_use]
    pub fn meets(&self, requirement: &str) -> bool {
        self.findings.iter().any(|finding| finding.requirement == requirement && finding.met)
    }
}

impl fmt::Display for Review {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in &self.findings {
            let mark = if finding.met { "met  " } else { "UNMET" };
            writeln!(f, "{mark} {:<10} {}", finding.requirement, finding.why)?;
        }
        Ok(())
    }
}

impl Finding {
    fn new(requirement: &'static str, met: bool, why: &str, otherwise: &str) -> Self {
        let why = if met { why } else { otherwise }.to_owned();
        Finding { requirement, area: Area::Other, met, why }
    }
}

/// The lifetimes that sessions of users can have. A handler can choose between two at every
/// sign-in.
struct Lifetimes {
    all: Vec<Lifetime>,
    text: String,
}

impl Lifetimes {
    fn of(settings: &Settings) -> Self {
        let all: Vec<_> =
            std::iter::once(settings.lifetime).chain(settings.browser_session_lifetime).collect();
        let mut text = all.iter().map(describe).collect::<Vec<_>>().join("; or ");
        if let Some(max) = settings.max_idle_limit {
            text.push_str(&format!("; a handler can set up to {} idle", humanize(max)));
        }
        Lifetimes { all, text }
    }

    /// Returns whether all have this limit.
    fn all_have(&self, limit: fn(&Lifetime) -> Option<Duration>) -> bool {
        self.all.iter().all(|lifetime| limit(lifetime).is_some())
    }
}

fn describe(lifetime: &Lifetime) -> String {
    let idle = lifetime.idle_limit().map_or("no idle limit".to_owned(), |limit| {
        format!("ends after {} without a request", humanize(limit))
    });
    let absolute = lifetime.absolute_limit().map_or("no absolute limit".to_owned(), |limit| {
        format!("after {} in any case", humanize(limit))
    });
    format!("{idle}, {absolute}")
}

/// Describes the lifetime of anonymous sessions, and their maximum if there is one.
fn describe_anonymous(settings: &Settings) -> String {
    let lifetime = describe(&settings.anonymous_lifetime(settings.persistent));
    match settings.max_anonymous {
        Some(max) => format!("{lifetime}, and at most {max} of them"),
        None => lifetime,
    }
}

impl SessionManager {
    /// Reviews this configuration against the requirements of OWASP ASVS 5.0 and NIST SP 800-63B-4
    /// that concern sessions; the guide [lists them](crate::guide::asvs). It does not see where a
    /// handler deviates from the configuration, for example by
    /// [`Session::set_persistent`](crate::Session::set_persistent).
    #[must_use]
    pub fn review(&self) -> Review {
        let Context { id_settings, settings, .. } = &*self.context;
        let lifetimes = Lifetimes::of(settings);
        let id_carrier = match &id_settings.carrier {
            IdCarrier::Cookie(cookie) => cookies(cookie),
            IdCarrier::Header(name) => header(name),
        };
        let separation = separation(self.context.capabilities, &id_settings.realm);
        let by_area = [
            (Area::Other, documentation(settings, &lifetimes)),
            (Area::Limits, timeouts(&lifetimes)),
            (Area::Other, termination(self.index("review").is_ok())),
            (Area::Cookie, id_carrier),
            (Area::Origins, vec![anti_forgery(id_settings)]),
            (Area::Other, data_in_browsers(settings)),
            (Area::Other, vec![renewal(settings.renew_every), trail(&self.context.events)]),
            (Area::Anonymous, vec![self.anonymous()]),
            (Area::Other, assurance_levels(settings, &lifetimes)),
            (Area::Other, separation.into_iter().collect()),
        ];
        let in_area = |(area, findings): (Area, Vec<Finding>)| {
            findings.into_iter().map(move |finding| Finding { area, ..finding })
        };
        Review { findings: by_area.into_iter().flat_map(in_area).collect() }
    }

    /// The bounds of anonymous sessions, which anyone can begin.
    fn anonymous(&self) -> Finding {
        let settings = &self.context.settings;
        let lifetime = settings.anonymous_lifetime(settings.persistent);
        let why = match settings.max_anonymous {
            Some(_) => describe_anonymous(settings),
            None => format!("{}, and the store keeps room for users", describe(&lifetime)),
        };
        let otherwise = if lifetime.absolute_limit().is_none() {
            "they may live for ever: set an absolute limit in \
             SessionManagerBuilder::anonymous_lifetime"
        } else if settings.max_anonymous.is_some() {
            "this manager does not apply their maximum: leave without_cleaner to programs beside \
             the server"
        } else {
            "nothing bounds their number, so a flood of visitors can displace the sessions of \
             users: choose a store that can list sessions, such as SqliteStore"
        };
        let is_bounded = match settings.max_anonymous {
            Some(_) => self.context.cleaner.is_some(),
            None => self.context.capabilities.bounds_anonymous,
        };
        let met = is_bounded && lifetime.absolute_limit().is_some();
        Finding::new("anonymous", met, &why, otherwise)
    }
}

/// The renewal timeout of OWASP's cheat sheet on sessions.
fn renewal(renew_every: Option<Duration>) -> Finding {
    let why = renew_every.map(|age| format!("ids are renewed at an age of {}", humanize(age)));
    let otherwise = "an id stays valid until its session ends or is renewed: set renew_every, or \
                     document why a stolen id may be of use for so long";
    Finding::new("renewal", why.is_some(), &why.unwrap_or_default(), otherwise)
}

/// ASVS 16.3.1.
fn trail(events: &Events) -> Finding {
    let met = events.are_kept(EventKind::Ended) && events.are_kept(EventKind::SignedIn);
    Finding::new(
        "ASVS 16.3.1",
        met,
        "sign-ins, and the ends of users' sessions, are recorded with user, address and reason",
        "sign-ins, and the ends of users' sessions, are not recorded: install a logger that keeps \
         level info of the target cloakroom, or set SessionManagerBuilder::events",
    )
}

/// The separation from other applications, where the store's settings alone do not give it.
fn separation(capabilities: Capabilities, realm: &Realm) -> Option<Finding> {
    let otherwise = "another application on the same servers shares these sessions if it has the \
                     default settings too: set MemcachedStoreBuilder::namespace, or \
                     SessionManagerBuilder::realm";
    let met = *realm != Realm::default();
    capabilities
        .shared_by_default
        .then(|| Finding::new("separation", met, "the realm is this application's own", otherwise))
}

/// ASVS 7.1.
fn documentation(settings: &Settings, lifetimes: &Lifetimes) -> Vec<Finding> {
    let anonymous = describe_anonymous(settings);
    let text = format!("{}; anonymous sessions: {anonymous}", lifetimes.text);
    let max_sessions = settings.max_sessions.map(|MaxSessions { max, at_maximum }| {
        let effect = match at_maximum {
            AtMaximum::Refuse => "a sign-in is refused",
            AtMaximum::EndOldest => "the oldest ends",
            AtMaximum::EndOthers => "all others end",
        };
        format!("at most {max} sessions per user; beyond that {effect}")
    });
    vec![
        Finding::new(
            "ASVS 7.1.1",
            lifetimes.all_have(Lifetime::idle_limit)
                && lifetimes.all_have(Lifetime::absolute_limit),
            &format!("{text}: document these, and why"),
            &format!("{text}: set both limits, or document why one is missing"),
        ),
        Finding::new(
            "ASVS 7.1.2",
            max_sessions.is_some(),
            &max_sessions.unwrap_or_default(),
            "any number of sessions per user: set max_sessions_per_user, or document that there \
             is no limit",
        ),
    ]
}

/// ASVS 7.3.
fn timeouts(lifetimes: &Lifetimes) -> Vec<Finding> {
    let text = &lifetimes.text;
    let without_idle = format!("{text}: set an idle limit, as with Lifetime::idle");
    let without_absolute = format!("{text}: set an absolute limit, with Lifetime::with_absolute");
    let has_idle = lifetimes.all_have(Lifetime::idle_limit);
    let has_absolute = lifetimes.all_have(Lifetime::absolute_limit);
    vec![
        Finding::new("ASVS 7.3.1", has_idle, text, &without_idle),
        Finding::new("ASVS 7.3.2", has_absolute, text, &without_absolute),
    ]
}

/// ASVS 7.4 and 7.5.
fn termination(indexed: bool) -> Vec<Finding> {
    let why = "the store can list and revoke by user";
    let otherwise = "the store cannot list sessions by user: choose one that can";
    let requirements = ["ASVS 7.4.2", "ASVS 7.4.3", "ASVS 7.4.5", "ASVS 7.5.2"];
    requirements.map(|requirement| Finding::new(requirement, indexed, why, otherwise)).into()
}

/// ASVS 3.3, for a cookie.
fn cookies(cookie: &CookieConfig) -> Vec<Finding> {
    let name = &cookie.name;
    let host = name.starts_with("__Host-");
    let prefixed = host || name.starts_with("__Secure-");
    let insecure = if cookie.secure {
        "is Secure, but its name does not require it: let it begin with __Host- or __Secure-"
    } else {
        "is not Secure: serve it over TLS, with CookieConfig::new()"
    };
    let same_site = cookie.same_site;
    vec![
        Finding::new(
            "ASVS 3.3.1",
            cookie.secure && prefixed,
            &format!("the cookie {name:?} is Secure"),
            &format!("the cookie {name:?} {insecure}"),
        ),
        Finding::new(
            "ASVS 3.3.2",
            same_site != SameSite::None,
            &format!("SameSite={same_site:?}"),
            "SameSite=None, so requests that other sites cause carry the cookie: choose Lax or \
             Strict, or document why not",
        ),
        Finding::new(
            "ASVS 3.3.3",
            host,
            &format!("only this host can set the cookie {name:?}"),
            &format!(
                "other hosts of the domain can plant the cookie {name:?}: let its name begin with \
                 __Host-, or document which hosts share it"
            ),
        ),
        Finding::new(
            "ASVS 3.3.4",
            cookie.http_only,
            "the cookie is HttpOnly",
            "scripts in a page can read the cookie: leave http_only at true",
        ),
    ]
}

/// ASVS 3.3, for an id in a header.
fn header(name: &str) -> Vec<Finding> {
    let why = format!(
        "scripts can read the id, because the header {name:?} carries it: use a cookie for browsers"
    );
    vec![Finding::new("ASVS 3.3.4", false, "", &why)]
}

/// ASVS 3.5.1.
fn anti_forgery(settings: &IdSettings) -> Finding {
    let by_header = matches!(settings.carrier, IdCarrier::Header(_));
    let why = match (by_header, settings.cross_origin.exceptions()) {
        (true, _) => "browsers do not send the id by themselves".to_owned(),
        (false, None) => "requests that pages of other origins send are refused".to_owned(),
        (false, Some(exceptions)) => {
            format!("requests that pages of other origins send are refused, except {exceptions}")
        }
    };
    let met = by_header || settings.cross_origin.is_enforced();
    let otherwise = "requests that pages of other origins send are not refused: set \
                     cross_origin(CrossOrigin::refuse()), or verify a CSRF token in every form";
    Finding::new("ASVS 3.5.1", met, &why, otherwise)
}

/// ASVS 14.3.
fn data_in_browsers(settings: &Settings) -> Vec<Finding> {
    vec![
        Finding::new(
            "ASVS 14.3.1",
            settings.clear_site_data,
            "a sign-out clears the site's data in the browser",
            "a sign-out leaves the site's data in the browser: set clear_site_data(true), or send \
             Clear-Site-Data from the page that signs out",
        ),
        Finding::new(
            "ASVS 14.3.2",
            settings.no_store_when_signed_in,
            "no cache stores the pages of a signed-in user",
            "caches may store the pages of a signed-in user: set no_store_when_signed_in(true), or \
             send Cache-Control: no-store with every sensitive response",
        ),
    ]
}

/// The levels of NIST SP 800-63B-4.
fn assurance_levels(settings: &Settings, lifetimes: &Lifetimes) -> Vec<Finding> {
    let is_within = |limit: Option<Duration>, max: Option<Duration>| {
        max.is_none_or(|max| limit.is_some_and(|limit| limit <= max))
    };
    let is_persistent = settings.persistent || settings.browser_session_lifetime.is_some();
    let persistence = if is_persistent {
        "; browsers keep the cookie when closed, which the level forbids"
    } else {
        ""
    };
    // The standard has no idle limit for level 1.
    let levels = [
        ("NIST AAL1", "aal1", Policy::aal1().lifetime(), false),
        ("NIST AAL2", "aal2", Policy::aal2().lifetime(), true),
        ("NIST AAL3", "aal3", Policy::aal3().lifetime(), true),
    ];
    let assess = |(level, policy, max, limits_idle): (_, _, Lifetime, _)| {
        let max_idle = max.idle_limit().filter(|_| limits_idle);
        let meets_level = |lifetime: &Lifetime| {
            is_within(lifetime.absolute_limit(), max.absolute_limit())
                && is_within(lifetime.idle_limit(), max_idle)
        };
        let set_idle_is_within =
            settings.max_idle_limit.is_none_or(|limit| is_within(Some(limit), max_idle));
        let met = !is_persistent && set_idle_is_within && lifetimes.all.iter().all(meets_level);
        let and_max = if set_idle_is_within { "" } else { " and no longer max_idle_limit" };
        let text = &lifetimes.text;
        let otherwise = format!("{text}{persistence}: set policy(Policy::{policy}()){and_max}");
        Finding::new(level, met, text, &otherwise)
    };
    levels.map(assess).into()
}
