//! The header fields that a session adds to a response.

use std::borrow::Cow;
use std::fmt::{self, Debug};

use crate::message::response::Response;

/// The header fields that a session adds to a response.
///
/// [`apply_to`](Self::apply_to) adds them to a [`Response`]. Appending every pair of
/// [`iter`](Self::iter) is correct for any response too.
///
/// `Debug` does not show the values of [`id_fields`](Self::id_fields).
#[derive(Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ResponseHeaders {
    /// The header fields that set or remove the client's id, in order: name and value. There can be
    /// none, one, or several of the same name, each of which is a separate field in the response.
    pub id_fields: Vec<(Cow<'static, str>, String)>,
    /// The request header that the response depends on; `None` if the session was not used.
    pub vary_on: Option<Cow<'static, str>>,
    /// Whether changes of this request were discarded, because its session had ended or its id had
    /// been replaced meanwhile.
    pub discarded: bool,
    /// Whether a shared cache may store the response.
    pub shared_caching: SharedCaching,
    /// Whether no cache, the browser's included, may store the response, by
    /// [`no_store_when_signed_in`](crate::manager::SessionManagerBuilder::no_store_when_signed_in)
    /// or `no_store_with_csrf_token`.
    pub no_store: bool,
    /// Whether the browser should delete everything except cookies that it stores of this site, by
    /// [`clear_site_data`](crate::manager::SessionManagerBuilder::clear_site_data).
    pub clear_site_data: bool,
}

/// Whether a shared cache, such as a proxy or a CDN, may store a response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum SharedCaching {
    /// The response does not depend on the session.
    #[default]
    Allowed,
    /// Only a response with `public` or `s-maxage` may be stored. The session was used, but the
    /// request presented no id, and the response has nothing of a single visitor.
    IfPublic,
    /// The response may not be stored. The request presented an id and the session was used, or the
    /// response has an id, a CSRF token or a flash message.
    Never,
}

impl Debug for ResponseHeaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.id_fields.iter().map(|(name, _)| &**name).collect();
        f.debug_struct("ResponseHeaders")
            .field("id_fields", &names)
            .field("vary_on", &self.vary_on)
            .field("discarded", &self.discarded)
            .field("shared_caching", &self.shared_caching)
            .field("no_store", &self.no_store)
            .field("clear_site_data", &self.clear_site_data)
            .finish()
    }
}

/// Without `"cookies"`, which would delete the cookie of a session that the same response begins.
const CLEAR_SITE_DATA: (&str, &str) = ("Clear-Site-Data", "\"cache\", \"storage\"");

/// No shared cache may store the response; RFC 9111, section 5.2.2.7.
const PRIVATE: &str = "private";

/// Nor may a cache reuse the Set-Cookie field without validation; RFC 9111, section 5.2.2.4.
const PRIVATE_NO_CACHE: &str = "private, no-cache=\"Set-Cookie\"";

const NO_STORE: &str = "no-store";

impl ResponseHeaders {
    /// Adds the fields to a response: `Vary` and `Cache-Control` are merged with those it has, all
    /// others are appended.
    pub fn apply_to(&self, response: &mut impl Response) {
        response.merge_header("Vary", &|values| self.vary(joined(values).as_deref()));
        response
            .merge_header("Cache-Control", &|values| self.cache_control(joined(values).as_deref()));
        for (name, value) in self.appended_fields() {
            response.append_header(name, value);
        }
    }

    /// Iterates over names and values to append to a response whose own fields cannot be changed.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let cache_control = self.required_directives().map(|value| ("Cache-Control", value));
        let vary = self.vary_on.as_deref().map(|name| ("Vary", name));
        self.appended_fields().chain(cache_control).chain(vary)
    }

    /// Iterates over names and values to append, without `Vary` and `Cache-Control`. For these two,
    /// see [`vary`](Self::vary) and [`cache_control`](Self::cache_control).
    pub fn appended_fields(&self) -> impl Iterator<Item = (&str, &str)> {
        let id = self.id_fields.iter().map(|(name, value)| (&**name, value.as_str()));
        id.chain(self.clear_site_data.then_some(CLEAR_SITE_DATA))
    }

    /// Returns the directives of a response that has none of its own; `None` if it needs none. No
    /// cache knows another field with an id than Set-Cookie.
    fn required_directives(&self) -> Option<&'static str> {
        match self.id_fields.first() {
            _ if self.no_store => Some(NO_STORE),
            Some((name, _)) if name != "Set-Cookie" => Some(NO_STORE),
            Some(_) => Some(PRIVATE_NO_CACHE),
            None => (self.shared_caching != SharedCaching::Allowed).then_some(PRIVATE),
        }
    }

    /// Returns the new value of the response's `Vary`; `None` if the current one can stay.
    #[must_use]
    pub fn vary(&self, current: Option<&str>) -> Option<String> {
        let name = self.vary_on.as_deref()?;
        match current.map(str::trim).filter(|current| !current.is_empty()) {
            None => Some(name.to_owned()),
            Some(current) => {
                let mut parts = current.split(',').map(str::trim);
                let covered = parts.any(|part| part == "*" || part.eq_ignore_ascii_case(name));
                (!covered).then(|| format!("{current}, {name}"))
            }
        }
    }

    /// Returns the new value of the response's `Cache-Control`; `None` if the current one can stay.
    /// It is `private` unless [`shared_caching`](Self::shared_caching) allows more, and always
    /// `no-store` for a response that must not be stored. A directive that is already there is not
    /// repeated.
    #[must_use]
    pub fn cache_control(&self, current: Option<&str>) -> Option<String> {
        let required = self.required_directives()?;
        let is_shared =
            |part: &&str| is_directive(part, "public") || is_directive(part, "s-maxage");
        let (shared, mut kept): (Vec<&str>, Vec<&str>) =
            directives(current.unwrap_or_default()).partition(is_shared);
        let may_be_shared = required == PRIVATE && self.shared_caching == SharedCaching::IfPublic;
        if kept.iter().any(|part| is_directive(part, NO_STORE))
            || may_be_shared && !shared.is_empty()
        {
            return None;
        }
        let before = kept.len();
        let in_place_of_shared = (!shared.is_empty()).then_some(PRIVATE);
        for directive in in_place_of_shared.into_iter().chain(directives(required)) {
            if !kept.iter().any(|part| covers(part, directive)) {
                kept.push(directive);
            }
        }
        let is_changed = kept.len() > before || !shared.is_empty();
        is_changed.then(|| kept.join(", "))
    }
}

/// Returns the single value that is equivalent to several fields of one name (RFC 9110, section
/// 5.3).
fn joined(values: &[&str]) -> Option<String> {
    (!values.is_empty()).then(|| values.join(", "))
}

/// Splits a `Cache-Control` value into directives. A comma between quotes is part of an argument.
fn directives(value: &str) -> impl Iterator<Item = &str> {
    let mut in_quotes = false;
    let parts = value.split(move |c| {
        in_quotes ^= c == '"';
        c == ',' && !in_quotes
    });
    parts.map(str::trim).filter(|part| !part.is_empty())
}

fn is_directive(part: &str, name: &str) -> bool {
    part.split('=').next().is_some_and(|word| word.trim().eq_ignore_ascii_case(name))
}

/// Returns whether a directive of the response demands as much as `required`: of `no-cache`, for
/// `Set-Cookie` or for the whole response.
fn covers(part: &str, required: &str) -> bool {
    if !is_directive(required, "no-cache") {
        return part.eq_ignore_ascii_case(required);
    }
    let fields = part.split_once('=').map(|(_, fields)| fields.trim().trim_matches('"'));
    is_directive(part, "no-cache")
        && fields.is_none_or(|fields| {
            fields.split(',').any(|field| field.trim().eq_ignore_ascii_case("Set-Cookie"))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers() -> ResponseHeaders {
        ResponseHeaders {
            id_fields: vec![("Set-Cookie".into(), "id=x".into())],
            vary_on: Some("Cookie".into()),
            discarded: false,
            shared_caching: SharedCaching::Never,
            no_store: false,
            clear_site_data: false,
        }
    }

    #[test]
    fn vary_names_the_cookie_once_beside_other_headers() {
        let vary = |now| headers().vary(now);
        assert_eq!(vary(None).as_deref(), Some("Cookie"));
        assert_eq!(vary(Some("")).as_deref(), Some("Cookie"));
        assert_eq!(vary(Some("Accept-Encoding")).as_deref(), Some("Accept-Encoding, Cookie"));
        assert_eq!(vary(Some("Accept, cookie")), None);
        assert_eq!(vary(Some("*")), None);
        assert_eq!(ResponseHeaders::default().vary(None), None);
    }

    #[test]
    fn a_response_with_an_id_is_never_public() {
        let cache = |now| headers().cache_control(now);
        assert_eq!(cache(None).as_deref(), Some("private, no-cache=\"Set-Cookie\""));
        assert_eq!(
            cache(Some("max-age=60")).as_deref(),
            Some("max-age=60, private, no-cache=\"Set-Cookie\"")
        );
        assert_eq!(
            cache(Some("public, max-age=60, s-maxage=9")).as_deref(),
            Some("max-age=60, private, no-cache=\"Set-Cookie\"")
        );
        assert_eq!(cache(Some("private")).as_deref(), Some("private, no-cache=\"Set-Cookie\""));
        assert_eq!(cache(Some("no-store")), None);
        let id_fields = vec![("X-Session".into(), "x".to_owned())];
        let headers = ResponseHeaders { id_fields, ..headers() };
        let cache = headers.cache_control(Some("max-age=60"));
        assert_eq!(cache.as_deref(), Some("max-age=60, no-store"), "no cache knows that header");
        assert_eq!(ResponseHeaders::default().cache_control(Some("public")), None);
    }

    #[test]
    fn a_directive_that_covers_set_cookie_is_not_repeated() {
        let cache = |now: &str| headers().cache_control(Some(&format!("private, {now}")));
        for said in [
            "no-cache=\"Set-Cookie\"",
            "No-Cache",
            "max-age=60, no-cache",
            "no-cache=\"X-Other, set-cookie\", max-age=60",
            "no-cache=Set-Cookie",
        ] {
            assert_eq!(cache(said), None, "{said}");
        }
        let of_another = "no-cache=\"X-Other\"";
        assert_eq!(
            cache(of_another),
            Some(format!("private, {of_another}, no-cache=\"Set-Cookie\""))
        );
        let public = "public, no-cache=\"Set-Cookie\", s-maxage=9";
        let public = headers().cache_control(Some(public));
        assert_eq!(public.as_deref(), Some("no-cache=\"Set-Cookie\", private"));
        let headers = ResponseHeaders { no_store: true, ..headers() };
        let stored = headers.cache_control(Some("no-cache"));
        assert_eq!(stored.as_deref(), Some("no-cache, no-store"), "which asks for more");
    }

    #[test]
    fn a_comma_in_quotes_does_not_separate_directives() {
        let now = "ext=\"a, public, b\", max-age=1";
        let merged = headers().cache_control(Some(now));
        assert_eq!(merged, Some(format!("{now}, {PRIVATE_NO_CACHE}")));
        let open = headers().cache_control(Some("ext=\"a, public"));
        let wanted = format!("ext=\"a, public, {PRIVATE_NO_CACHE}");
        assert_eq!(open, Some(wanted), "a quote without an end");
    }

    #[test]
    fn a_response_with_no_store_has_it_with_and_without_an_id() {
        for id_fields in [headers().id_fields, vec![]] {
            let headers = ResponseHeaders { id_fields, no_store: true, ..headers() };
            assert_eq!(headers.cache_control(None).as_deref(), Some("no-store"));
            let cache = headers.cache_control(Some("public, max-age=60"));
            assert_eq!(cache.as_deref(), Some("max-age=60, private, no-store"));
            assert_eq!(headers.cache_control(Some("No-Store")), None);
            let is_no_store =
                |(name, value): &(&str, &str)| *name == "Cache-Control" && *value == "no-store";
            assert_eq!(headers.iter().filter(is_no_store).count(), 1);
        }
    }

    #[test]
    fn appended_fields_are_all_but_the_merged_fields() {
        let headers = ResponseHeaders { no_store: true, clear_site_data: true, ..headers() };
        let clear = ("Clear-Site-Data", "\"cache\", \"storage\"");
        assert_eq!(headers.appended_fields().collect::<Vec<_>>(), [("Set-Cookie", "id=x"), clear]);
        let all: Vec<_> = headers.iter().collect();
        let merged = [("Cache-Control", "no-store"), ("Vary", "Cookie")];
        assert_eq!(all, [&[("Set-Cookie", "id=x"), clear], &merged[..]].concat());
        assert_eq!(ResponseHeaders::default().iter().count(), 0);
    }

    #[test]
    fn several_id_fields_stay_separate_and_in_order() {
        let field = |value: &str| ("Set-Cookie".into(), value.to_owned());
        let headers = ResponseHeaders { id_fields: vec![field("a=1"), field("b=2")], ..headers() };
        let expected = [("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")];
        assert_eq!(headers.appended_fields().collect::<Vec<_>>(), expected);
        let directive = headers.cache_control(None);
        assert_eq!(directive.as_deref(), Some("private, no-cache=\"Set-Cookie\""));
    }

    #[test]
    fn a_response_without_an_id_is_private_unless_it_may_be_shared() {
        let cache = |shared_caching, now| {
            ResponseHeaders { id_fields: vec![], shared_caching, ..headers() }.cache_control(now)
        };
        for (shared_caching, now, wanted) in [
            (SharedCaching::Never, None, Some("private")),
            (SharedCaching::Never, Some("max-age=60"), Some("max-age=60, private")),
            (SharedCaching::Never, Some("public, max-age=60"), Some("max-age=60, private")),
            (SharedCaching::Never, Some("private=\"X\""), Some("private=\"X\", private")),
            (SharedCaching::Never, Some("Private, s-maxage=9"), Some("Private")),
            (SharedCaching::Never, Some("private, max-age=60"), None),
            (SharedCaching::Never, Some("no-store"), None),
            (SharedCaching::IfPublic, None, Some("private")),
            (SharedCaching::IfPublic, Some("max-age=60"), Some("max-age=60, private")),
            (SharedCaching::IfPublic, Some("public, max-age=60"), None),
            (SharedCaching::IfPublic, Some("s-maxage=60"), None),
            (SharedCaching::Allowed, None, None),
            (SharedCaching::Allowed, Some("max-age=60"), None),
        ] {
            assert_eq!(cache(shared_caching, now).as_deref(), wanted, "{shared_caching:?} {now:?}");
        }
        let headers = ResponseHeaders { id_fields: vec![], ..headers() };
        assert!(headers.iter().any(|field| field == ("Cache-Control", "private")));
    }

    #[test]
    fn debug_output_shows_no_id() {
        let shown = format!("{:?}", headers());
        assert!(shown.contains("Set-Cookie") && !shown.contains("id=x"), "{shown}");
    }
}
