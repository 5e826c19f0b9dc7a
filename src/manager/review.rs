//! The review of a configuration: the requirements of OWASP ASVS 5.0 and NIST SP 800-63B-4 that it
//! meets, and those that it does not.
//!
//! Uses `policy` and the settings of the manager. Applications and the command `doctor` call it.

use std::fmt;
use std::time::Duration;

use crate::backend::AtLimit;
use crate::cookie::SameSite;
use crate::lifetime::Lifetime;
use crate::manager::SessionManager;
use crate::policy::{Policy, humanize};
use crate::session::Transport;

/// One requirement, and whether the configuration meets it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// The requirement: a number of OWASP ASVS 5.0, or a level of NIST SP 800-63B-4.
    pub requirement: &'static str,
    /// Whether the configuration meets the requirement.
    pub met: bool,
    /// The setting that decides this; if the requirement is not met, also the remedy.
    pub why: String,
}

/// The findings for a configuration. They serve the application's security documentation, which
/// ASVS 7.1.1 and 7.1.2 require, and a test that the configuration stays as documented.
///
/// `Display` writes one line for each finding.
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

fn describe(lifetime: &Lifetime) -> String {
    let idle = lifetime.idle_limit().map_or("no idle limit".to_owned(), |limit| {
        format!("ends after {} without a request", humanize(limit))
    });
    let absolute = lifetime.absolute_limit().map_or("no absolute limit".to_owned(), |limit| {
        format!("after {} in any case", humanize(limit))
    });
    format!("{idle}, {absolute}")
}

impl SessionManager {
    /// Reviews this configuration against OWASP ASVS 5.0 and NIST SP 800-63B-4, as far as a
    /// configuration of sessions can meet them. A handler can deviate from the configuration, for
    /// example with [`Session::set_persistent`](crate::Session::set_persistent).
    #[must_use]
    pub fn review(&self) -> Review {
        let settings = &self.context.settings;
        let mut findings = Vec::new();
        let mut add = |requirement, met, why: &str, otherwise: &str| {
            let why = if met { why } else { otherwise }.to_owned();
            findings.push(Finding { requirement, met, why });
        };

        // A handler can choose between the two kinds at every sign-in.
        let kinds: Vec<(Lifetime, bool)> = match settings.browser_session {
            Some(short) => vec![(settings.lifetime, true), (short, false)],
            None => vec![(settings.lifetime, settings.persistent)],
        };
        let all =
            |test: &dyn Fn(&Lifetime) -> bool| kinds.iter().all(|(lifetime, _)| test(lifetime));
        let lifetimes =
            kinds.iter().map(|(lifetime, _)| describe(lifetime)).collect::<Vec<_>>().join("; or ");
        let idle = all(&|lifetime| lifetime.idle_limit().is_some());
        let absolute = all(&|lifetime| lifetime.absolute_limit().is_some());
        add(
            "ASVS 7.1.1",
            idle && absolute,
            &format!("{lifetimes}: document these, and why"),
            &format!("{lifetimes}: set both limits, or document why one is missing"),
        );
        let session_limit = settings.session_limit.map(|session_limit| {
            let effect = match session_limit.at_limit {
                AtLimit::Refuse => "a sign-in is refused",
                AtLimit::EndOldest => "the oldest ends",
                AtLimit::EndOthers => "all others end",
            };
            format!("at most {} sessions per user; at the limit {effect}", session_limit.limit)
        });
        add(
            "ASVS 7.1.2",
            session_limit.is_some(),
            &session_limit.unwrap_or_default(),
            "any number of sessions per user: set max_sessions_per_user, or document that there \
             is no limit",
        );
        let without_idle = format!("{lifetimes}: set an idle limit, as with Lifetime::idle");
        add("ASVS 7.3.1", idle, &lifetimes, &without_idle);
        let without_absolute =
            format!("{lifetimes}: set an absolute limit, with Lifetime::with_absolute");
        add("ASVS 7.3.2", absolute, &lifetimes, &without_absolute);
        for requirement in ["ASVS 7.4.2", "ASVS 7.4.3", "ASVS 7.4.5", "ASVS 7.5.2"] {
            add(
                requirement,
                self.context.capabilities.indexed,
                "the store can list and revoke by user",
                "the store cannot list sessions by user: choose one that can",
            );
        }
        match &settings.transport {
            Transport::Cookie(cookie) => {
                let name = cookie.name_text();
                let host = name.starts_with("__Host-");
                let prefixed = host || name.starts_with("__Secure-");
                let otherwise = if cookie.is_secure() {
                    "is Secure, but its name does not require it: let it begin with __Host- or \
                     __Secure-"
                } else {
                    "is not Secure: serve it over TLS, with CookieConfig::new()"
                };
                add(
                    "ASVS 3.3.1",
                    cookie.is_secure() && prefixed,
                    &format!("the cookie {name:?} is Secure"),
                    &format!("the cookie {name:?} {otherwise}"),
                );
                let same_site = cookie.same_site_mode();
                add(
                    "ASVS 3.3.2",
                    same_site != SameSite::None,
                    &format!("SameSite={same_site:?}"),
                    "SameSite=None, so requests that other sites cause carry the cookie: choose \
                     Lax or Strict, or document why not",
                );
                add(
                    "ASVS 3.3.3",
                    host,
                    &format!("only this host can set the cookie {name:?}"),
                    &format!(
                        "other hosts of the domain can plant the cookie {name:?}: let its name \
                         begin with __Host-, or document which hosts share it"
                    ),
                );
                add(
                    "ASVS 3.3.4",
                    cookie.is_http_only(),
                    "the cookie is HttpOnly",
                    "scripts in a page can read the cookie: leave http_only at true",
                );
            }
            Transport::Header(name) => {
                let why = format!(
                    "scripts can read the id, because the header {name:?} carries it: use a cookie \
                     for browsers"
                );
                add("ASVS 3.3.4", false, "", &why);
            }
        }
        add(
            "ASVS 14.3.1",
            settings.clear_site_data,
            "a sign-out clears the site's data in the browser",
            "a sign-out leaves the site's data in the browser: set clear_site_data(true), or send \
             Clear-Site-Data from the page that signs out",
        );
        add(
            "ASVS 14.3.2",
            settings.no_store_when_signed_in,
            "no cache stores the pages of a signed-in user",
            "caches may store the pages of a signed-in user: set no_store_when_signed_in(true), or \
             send Cache-Control: no-store with every sensitive response",
        );
        let is_persistent = kinds.iter().any(|(_, persistent)| *persistent);
        for (level, asks_for_idle, policy, name) in [
            ("NIST AAL1", false, Policy::aal1().lifetime(), "aal1"),
            ("NIST AAL2", true, Policy::aal2().lifetime(), "aal2"),
            ("NIST AAL3", true, Policy::aal3().lifetime(), "aal3"),
        ] {
            let within = |limit: Option<Duration>, most: Option<Duration>| {
                limit.is_some_and(|limit| most.is_some_and(|most| limit <= most))
            };
            let met = !is_persistent
                && all(&|lifetime| {
                    within(lifetime.absolute_limit(), policy.absolute_limit())
                        && (!asks_for_idle || within(lifetime.idle_limit(), policy.idle_limit()))
                });
            let persistence = if is_persistent {
                "; browsers keep the cookie when closed, which the level forbids"
            } else {
                ""
            };
            let unmet = format!("{lifetimes}{persistence}: set policy(Policy::{name}())");
            add(level, met, &lifetimes, &unmet);
        }
        Review { findings }
    }
}
