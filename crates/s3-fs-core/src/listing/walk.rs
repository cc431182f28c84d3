//! Recognises a walk through the directories of a parent (`find`, `du`), and says which to list ahead.

use crate::path;

/// At most so many sibling directories are listed ahead of a walk.
const MAX_AHEAD: usize = 32;

/// A walk through the directories of one parent.
#[derive(Debug, Default)]
pub(crate) struct Walk {
    /// The directory visited last.
    last: Option<Box<str>>,
    /// How far ahead of it listings were started: 0 until the walk is proved.
    ahead: usize,
    /// The last directory that was returned for listing ahead.
    planned: Option<Box<str>>,
}

impl Walk {
    /// Notes a visit to the directory `name`; returns those that should be listed now.
    ///
    /// `directories_after(name, n)` gives the next `n` directories of the parent after `name`.
    pub(crate) fn visited(
        &mut self,
        name: &str,
        directories_after: impl Fn(&str, usize) -> Vec<Box<str>>,
    ) -> Vec<Box<str>> {
        let last = self.last.replace(Box::from(name));
        // Several walkers may overtake each other a little.
        let next = last.map(|last| directories_after(&last, self.ahead.max(1)));
        if !next.is_some_and(|next| next.iter().any(|next| **next == *name)) {
            self.ahead = 0;
            self.planned = None;
            return Vec::new();
        }
        self.ahead = (self.ahead * 2).clamp(2, MAX_AHEAD);
        let mut ahead = directories_after(name, self.ahead);
        if let Some(planned) = &self.planned {
            ahead.retain(|name| path::name_order(name, planned).is_gt());
        }
        if let Some(last) = ahead.last() {
            self.planned = Some(last.clone());
        }
        ahead
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(name: &str, count: usize) -> Vec<Box<str>> {
        let first = name.parse::<usize>().map_or(0, |n| n + 1);
        (first..100).take(count).map(|n| format!("{n:02}").into()).collect()
    }

    /// Visits directories and prints what is listed ahead at each.
    fn check(visits: &[&str], expected: &[&str]) {
        let mut walk = Walk::default();
        let ahead: Vec<String> = visits.iter().map(|name| walk.visited(name, after).join(" ")).collect();
        assert_eq!(ahead, expected);
    }

    #[test]
    fn a_walk_in_order_is_listed_ahead_ever_further() {
        check(&["00", "01", "02", "03"], &["", "02 03", "04 05 06", "07 08 09 10 11"]);
    }

    #[test]
    fn a_single_visit_or_a_jump_lists_nothing() {
        check(&["00", "50", "20"], &["", "", ""]);
        check(&["00", "01", "60"], &["", "02 03", ""]);
    }

    #[test]
    fn the_end_of_the_parent_ends_the_walk() {
        check(&["97", "98", "99"], &["", "99", ""]);
    }
}
