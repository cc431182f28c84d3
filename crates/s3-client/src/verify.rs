//! Checks every answer against its request: what an S3 client library takes on trust.
//!
//! Pure functions over requests and replies. Measured against a server that misbehaves, the AWS SDK hands out shorter and shifted
//! ranges, whole bodies in place of ranges and half a listing without an error; each of those is an error here.

use std::collections::{HashMap, VecDeque};

use crate::bucket::{GetRequest, ListPage, ListRequest, ObjectMeta};
use crate::error::{Error, ErrorKind, Result};
use crate::key::{ByteRange, ContinuationToken, ETag, KeyPrefix};

/// Checks the headers of a GET, and returns the bytes that the request is entitled to: its range, cut to the object's size.
///
/// The reply's `range` begins where the returned one does. It may end earlier, and the rest must be asked for; it ends later only
/// where the endpoint ignores ranges and the request began at byte 0, and the rest must not be read.
///
/// # Errors
/// `PreconditionFailed` if the reply is of another version than the request demands, `Corrupt` if it contradicts the request.
pub fn get_reply(request: &GetRequest, meta: &ObjectMeta, range: ByteRange) -> Result<ByteRange> {
    check_etag(request.if_match.as_ref(), meta.etag.as_ref())?;
    let all = ByteRange::new(0, meta.size);
    let wanted = request.range.unwrap_or(all);
    if request.range.is_some() && wanted.start >= all.end {
        return Err(corrupt(format!(
            "bytes {wanted} were asked for and given of an object of {} bytes",
            meta.size
        )));
    }
    let wanted = wanted.intersect(all);
    if range.end > all.end {
        return Err(corrupt(format!("bytes {range} of an object of {} bytes", meta.size)));
    }
    if range == wanted {
        return Ok(wanted);
    }
    if request.range.is_some() && range == all {
        return if wanted.start == 0 {
            Ok(wanted)
        } else {
            Err(corrupt("the endpoint ignores Range".to_owned()))
        };
    }
    if range.start != wanted.start || range.end > wanted.end || range.is_empty() {
        return Err(corrupt(format!("bytes {wanted} were asked for, bytes {range} came")));
    }
    Ok(wanted)
}

fn check_etag(asked: Option<&ETag>, got: Option<&ETag>) -> Result<()> {
    match (asked, got) {
        (Some(asked), Some(got)) if asked != got => Err(Error::new(ErrorKind::PreconditionFailed, "get")
            .with_message(format!("the object changed: its ETag is {got}, not {asked}"))),
        // The ETag asked for came from this store, so a reply without one is not the store's: a captive portal, a proxy.
        (Some(_), None) => Err(corrupt("the reply names no ETag".to_owned())),
        _ => Ok(()),
    }
}

/// Checks that the reply to a resumed GET is of the version that `first` was.
///
/// # Errors
/// `PreconditionFailed` if the object changed.
pub fn same_version(first: &ObjectMeta, next: &ObjectMeta) -> Result<()> {
    check_etag(first.etag.as_ref(), next.etag.as_ref())?;
    let same = first.size == next.size && (first.etag.is_some() || first.last_modified == next.last_modified);
    if same {
        return Ok(());
    }
    Err(Error::new(ErrorKind::PreconditionFailed, "get").with_message(format!(
        "the object changed while it was read: {} bytes became {}",
        first.size, next.size
    )))
}

/// Checks a page of a listing. `after` is the last name of the page before this one, if that is known; `ordered` tells whether the
/// store sorts.
///
/// # Errors
/// `Corrupt`, with the contradiction.
pub fn list_page(request: &ListRequest, after: Option<&str>, ordered: bool, page: &ListPage) -> Result<()> {
    let entries = page.objects.len() + page.common_prefixes.len();
    if entries > usize::from(request.max_keys) {
        return Err(corrupt_list(format!(
            "{entries} entries where at most {} were asked for",
            request.max_keys
        )));
    }
    if page.next.is_some() && page.next == request.continuation {
        return Err(corrupt_list("the token of the next page is that of this page".to_owned()));
    }
    check_objects(request, page)?;
    check_prefixes(request, page)?;
    if ordered {
        check_order("keys", page.objects.iter().map(|o| o.key.as_str()))?;
        check_order("common prefixes", page.common_prefixes.iter().map(KeyPrefix::as_str))?;
        check_position(request, after, page)?;
    }
    Ok(())
}

fn check_objects(request: &ListRequest, page: &ListPage) -> Result<()> {
    for object in &page.objects {
        let Some(rest) = object.key.as_str().strip_prefix(request.prefix.as_str()) else {
            return Err(corrupt_list(format!("the key {} does not begin with the prefix", object.key)));
        };
        if request.delimiter && rest.contains('/') {
            return Err(corrupt_list(format!("the key {} was not rolled up", object.key)));
        }
    }
    Ok(())
}

fn check_prefixes(request: &ListRequest, page: &ListPage) -> Result<()> {
    for common in &page.common_prefixes {
        let rest = common.as_str().strip_prefix(request.prefix.as_str());
        // Exactly one delimiter, at the end.
        let rolled_up = |rest: &str| rest.find('/').is_some_and(|at| at + 1 == rest.len());
        if !request.delimiter || !rest.is_some_and(rolled_up) {
            return Err(corrupt_list(format!("{common} is no common prefix of this listing")));
        }
    }
    Ok(())
}

fn check_order<'a>(what: &str, mut names: impl Iterator<Item = &'a str>) -> Result<()> {
    let mut last = names.next();
    for name in names {
        if last.is_some_and(|last| name <= last) {
            return Err(corrupt_list(format!("the {what} do not rise at {}", name.escape_debug())));
        }
        last = Some(name);
    }
    Ok(())
}

fn check_position(request: &ListRequest, after: Option<&str>, page: &ListPage) -> Result<()> {
    let (bound, first_page) = match &request.continuation {
        None => (request.start_after.as_deref(), true),
        Some(_) => (after, false),
    };
    let Some(bound) = bound.filter(|bound| !bound.is_empty()) else { return Ok(()) };
    let key = page.objects.first().map(|o| o.key.as_str()).filter(|key| *key <= bound);
    // `start_after` may lie below a common prefix that has later keys too.
    let prefix = page
        .common_prefixes
        .first()
        .map(KeyPrefix::as_str)
        .filter(|p| *p <= bound && !(first_page && bound.starts_with(p)));
    match key.or(prefix) {
        None => Ok(()),
        Some(name) => {
            Err(corrupt_list(format!("{} is listed after {}", name.escape_debug(), bound.escape_debug())))
        }
    }
}

fn corrupt(message: String) -> Error {
    Error::new(ErrorKind::Corrupt, "get").with_message(message)
}

fn corrupt_list(message: String) -> Error {
    Error::new(ErrorKind::Corrupt, "list").with_message(message)
}

/// Remembers where the last listings stopped, so that a continued one is known to go forward.
///
/// Without it a server that hands out two tokens in turn would list for ever. Bounded: the oldest listing is forgotten, and its next
/// page then goes unchecked against the one before.
#[derive(Debug, Default)]
pub struct PageTrail {
    last: HashMap<Position, String>,
    order: VecDeque<Position>,
}

type Position = (KeyPrefix, bool, ContinuationToken);

/// Listings under way whose position is remembered.
const TRAIL_LISTINGS: usize = 1024;

impl PageTrail {
    /// The last name before the page that `request` asks for.
    pub fn before(&self, request: &ListRequest) -> Option<&str> {
        let token = request.continuation.clone()?;
        self.last.get(&(request.prefix.clone(), request.delimiter, token)).map(String::as_str)
    }

    /// Notes where `page` stopped.
    pub fn note(&mut self, request: &ListRequest, page: &ListPage) {
        let key = page.objects.last().map(|o| o.key.as_str());
        let prefix = page.common_prefixes.last().map(KeyPrefix::as_str);
        // A page without entries stopped where the one before it did.
        let last = key.max(prefix).or_else(|| self.before(request));
        let (Some(next), Some(last)) = (page.next.clone(), last) else { return };
        let last = last.to_owned();
        let position = (request.prefix.clone(), request.delimiter, next);
        if self.last.insert(position.clone(), last).is_none() {
            self.order.push_back(position);
        }
        if self.order.len() > TRAIL_LISTINGS
            && let Some(oldest) = self.order.pop_front()
        {
            self.last.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests;
