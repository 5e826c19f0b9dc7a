//! What a configuration meets of the standards, and what it does not.

use std::fmt;
use std::time::Duration;

use crate::cookie::SameSite;
use crate::lifetime::Lifetime;
use crate::manager::SessionManager;
use crate::policy::{Policy, in_words};
use crate::session::Transport;
use crate::store::AtLimit;

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
        format!("ends after {} of silence", in_words(limit))
    });
    let absolute = lifetime.absolute_limit().map_or("no absolute limit".to_owned(), |limit| {
        format!("after {} in any case", in_words(limit))
    });
    format!("{idle}, {absolute}")
}

impl SessionManager {
    /// What this configuration meets of OWASP ASVS 5.0 and NIST SP 800-63B-4, as far as a
    /// configuration of sessions can meet it. A handler can deviate from it: by
    /// [`Session::set_persistent`](crate::Session::set_persistent), for example.
    #[must_use]
    pub fn review(&self) -> Review {
        let settings = &self.shared.settings;
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
        find("ASVS 7.1.1", idle && absolute, format!("{lives}: document these, and why"));
        find(
            "ASVS 7.1.2",
            settings.admit.is_some(),
            match settings.admit {
                Some(admit) => format!(
                    "at most {} sessions a user; at the limit {}",
                    admit.limit,
                    match admit.at_limit {
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
        find("ASVS 7.3.1", idle, lives.clone());
        find("ASVS 7.3.2", absolute, lives.clone());
        let lists = self.shared.store.traits().lists;
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
                let prefixed = name.starts_with("__Host-") || name.starts_with("__Secure-");
                let secure = cookie.is_secure() && prefixed;
                find("ASVS 3.3.1", secure, format!("the cookie {name:?}, Secure or not"));
                let same_site = cookie.same_site_mode();
                let own = same_site != SameSite::None;
                find("ASVS 3.3.2", own, format!("SameSite={same_site:?}"));
                let host = name.starts_with("__Host-");
                find(
                    "ASVS 3.3.3",
                    host,
                    format!("the cookie {name:?}: for this host alone or not"),
                );
                find("ASVS 3.3.4", cookie.is_http_only(), "HttpOnly or not".to_owned());
            }
            Transport::Header(name) => {
                let why = format!("the id travels in {name:?}: for clients that are no browsers");
                find("ASVS 3.3.4", false, why);
            }
        }
        let kept = kinds.iter().any(|(_, persistent)| *persistent);
        for (level, asks_for_idle, policy) in [
            ("NIST AAL1", false, Policy::aal1().lifetime()),
            ("NIST AAL2", true, Policy::aal2().lifetime()),
            ("NIST AAL3", true, Policy::aal3().lifetime()),
        ] {
            let within = |limit: Option<Duration>, most: Option<Duration>| {
                limit.is_some_and(|limit| most.is_some_and(|most| limit <= most))
            };
            let met = all(&|life| {
                within(life.absolute_limit(), policy.absolute_limit())
                    && (!asks_for_idle || within(life.idle_limit(), policy.idle_limit()))
            });
            let why = match kept {
                true => format!("{lives}; browsers keep the cookie when closed, which it forbids"),
                false => lives.clone(),
            };
            find(level, met && !kept, why);
        }
        Review { findings }
    }
}
