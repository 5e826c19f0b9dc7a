//! What a configuration meets of the standards, and what it does not.

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
    /// Where it comes from: a number of OWASP ASVS 5.0, or a level of NIST SP 800-63B-4.
    pub requirement: &'static str,
    /// Whether it is met.
    pub met: bool,
    /// What was found, and where it is not met, what to do.
    pub why: String,
}

/// The findings for a configuration, for the application's security documentation (ASVS 7.1.1 and
/// 7.1.2 ask for it) and for a test that it stays so. Printed, it is a line for each.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Review {
    /// All findings, met or not.
    pub findings: Vec<Finding>,
}

impl Review {
    /// What is not met.
    pub fn unmet(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| !finding.met)
    }

    /// Whether this requirement is met; false for one that nothing is known of.
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

fn said(lifetime: &Lifetime) -> String {
    let idle = lifetime.idle_limit().map_or("no idle limit".to_owned(), |limit| {
        format!("ends after {} of silence", humanize(limit))
    });
    let absolute = lifetime.absolute_limit().map_or("no absolute limit".to_owned(), |limit| {
        format!("after {} in any case", humanize(limit))
    });
    format!("{idle}, {absolute}")
}

impl SessionManager {
    /// What this configuration meets of OWASP ASVS 5.0 and NIST SP 800-63B-4, as far as a
    /// configuration of sessions can meet it. A handler can deviate from it: by
    /// [`Session::set_persistent`](crate::Session::set_persistent), for example.
    #[must_use]
    pub fn review(&self) -> Review {
        let settings = &self.context.settings;
        let mut findings = Vec::new();
        let mut find = |requirement, met, why: String| {
            findings.push(Finding { requirement, met, why });
        };

        // A handler can choose between the two kinds at any sign-in.
        let kinds: Vec<(Lifetime, bool)> = match settings.browser_session {
            Some(short) => vec![(settings.lifetime, true), (short, false)],
            None => vec![(settings.lifetime, settings.persistent)],
        };
        let all = |test: &dyn Fn(&Lifetime) -> bool| kinds.iter().all(|(life, _)| test(life));
        let lives = kinds.iter().map(|(life, _)| said(life)).collect::<Vec<_>>().join("; or ");
        let idle = all(&|life| life.idle_limit().is_some());
        let absolute = all(&|life| life.absolute_limit().is_some());
        find(
            "ASVS 7.1.1",
            idle && absolute,
            match idle && absolute {
                true => format!("{lives}: document these, and why"),
                false => format!("{lives}: set both limits, or document why one is missing"),
            },
        );
        find(
            "ASVS 7.1.2",
            settings.session_limit.is_some(),
            match settings.session_limit {
                Some(session_limit) => format!(
                    "at most {} sessions a user; at the limit {}",
                    session_limit.limit,
                    match session_limit.at_limit {
                        AtLimit::Refuse => "a sign-in is refused",
                        AtLimit::EndOldest => "the oldest ends",
                        AtLimit::EndOthers => "all others end",
                    }
                ),
                None => {
                    "any number of sessions a user: set max_sessions_per_user, or document that \
                     there is no limit"
                        .to_owned()
                }
            },
        );
        find(
            "ASVS 7.3.1",
            idle,
            match idle {
                true => lives.clone(),
                false => format!("{lives}: set an idle limit, as with Lifetime::idle"),
            },
        );
        find(
            "ASVS 7.3.2",
            absolute,
            match absolute {
                true => lives.clone(),
                false => format!("{lives}: set an absolute limit, with Lifetime::with_absolute"),
            },
        );
        let lists = self.context.store.capabilities().indexed;
        let listing = match lists {
            true => "the store can list and revoke by user",
            false => "the store cannot list sessions by user: choose one that can",
        };
        for requirement in ["ASVS 7.4.2", "ASVS 7.4.3", "ASVS 7.4.5", "ASVS 7.5.2"] {
            find(requirement, lists, listing.to_owned());
        }
        match &settings.transport {
            Transport::Cookie(cookie) => {
                let name = cookie.name_text();
                let host = name.starts_with("__Host-");
                let prefixed = host || name.starts_with("__Secure-");
                find(
                    "ASVS 3.3.1",
                    cookie.is_secure() && prefixed,
                    match (cookie.is_secure(), prefixed) {
                        (true, true) => format!("the cookie {name:?} is Secure"),
                        (true, false) => format!(
                            "the cookie {name:?} is Secure, and its name does not demand it: let \
                             it begin with __Host- or __Secure-"
                        ),
                        (false, _) => format!(
                            "the cookie {name:?} is not Secure: serve it over TLS, with \
                             CookieConfig::new()"
                        ),
                    },
                );
                let same_site = cookie.same_site_mode();
                let own = same_site != SameSite::None;
                find(
                    "ASVS 3.3.2",
                    own,
                    match own {
                        true => format!("SameSite={same_site:?}"),
                        false => "SameSite=None, so requests that other sites cause carry the \
                                  cookie: choose Lax or Strict, or document why not"
                            .to_owned(),
                    },
                );
                find(
                    "ASVS 3.3.3",
                    host,
                    match host {
                        true => format!("the cookie {name:?} is this host's alone"),
                        false => format!(
                            "other hosts of the domain can plant the cookie {name:?}: let its name \
                             begin with __Host-, or document which hosts share it"
                        ),
                    },
                );
                find(
                    "ASVS 3.3.4",
                    cookie.is_http_only(),
                    match cookie.is_http_only() {
                        true => "the cookie is HttpOnly".to_owned(),
                        false => "scripts in a page can read the cookie: leave http_only at true"
                            .to_owned(),
                    },
                );
            }
            Transport::Header(name) => {
                let why = format!(
                    "the id travels in the header {name:?}, from where scripts can read it: use a \
                     cookie for browsers"
                );
                find("ASVS 3.3.4", false, why);
            }
        }
        find(
            "ASVS 14.3.1",
            settings.clear_site_data,
            match settings.clear_site_data {
                true => "a sign-out clears what pages have stored in the browser".to_owned(),
                false => "a sign-out leaves in the browser what pages have stored there: set \
                          clear_site_data(true), or let the page that signs out send \
                          Clear-Site-Data"
                    .to_owned(),
            },
        );
        find(
            "ASVS 14.3.2",
            settings.no_store_when_signed_in,
            match settings.no_store_when_signed_in {
                true => "no cache stores what a signed-in user is shown".to_owned(),
                false => "caches may store what a signed-in user is shown: set \
                          no_store_when_signed_in(true), or send Cache-Control: no-store with \
                          every sensitive response"
                    .to_owned(),
            },
        );
        let kept = kinds.iter().any(|(_, persistent)| *persistent);
        for (level, asks_for_idle, policy, name) in [
            ("NIST AAL1", false, Policy::aal1().lifetime(), "aal1"),
            ("NIST AAL2", true, Policy::aal2().lifetime(), "aal2"),
            ("NIST AAL3", true, Policy::aal3().lifetime(), "aal3"),
        ] {
            let within = |limit: Option<Duration>, most: Option<Duration>| {
                limit.is_some_and(|limit| most.is_some_and(|most| limit <= most))
            };
            let met = all(&|life| {
                within(life.absolute_limit(), policy.absolute_limit())
                    && (!asks_for_idle || within(life.idle_limit(), policy.idle_limit()))
            });
            let kept_text = match kept {
                true => "; browsers keep the cookie when closed, which it forbids",
                false => "",
            };
            let why = match met && !kept {
                true => lives.clone(),
                false => format!("{lives}{kept_text}: set policy(Policy::{name}())"),
            };
            find(level, met && !kept, why);
        }
        Review { findings }
    }
}
