//! Pages of which the hardware has less than is there, because somebody wants to know what the guest does with them.
//!
//! A view is by guest-physical page, and the same under nested and shadow paging: the page is mapped as if it were ROM, or as if nothing were
//! there. The guest's memory stays what it is: what leaves the guest is done in software, on the bytes that are there. Each page has the
//! strictest view that was asked for.

use crate::map::Map;
use alloc::vec::Vec;
use hv_core::Gpa;
use hv_core::mmu::{Backing, View};

/// Pages that are watched at most.
const MAX_PAGES: usize = 256;

/// The pages that are watched, by number.
#[derive(Default, Debug)]
pub(crate) struct Views(Vec<(u64, View)>);

impl Views {
    /// Adds a view of a page. Whether the hardware has less of it than before.
    pub fn add(&mut self, page: Gpa, view: View) -> bool {
        let gfn = page.0 >> 12;
        let room = self.0.len() < MAX_PAGES;
        match self.0.iter_mut().find(|(at, _)| *at == gfn) {
            Some((_, has)) if *has >= view => false,
            Some((_, has)) => {
                *has = view;
                true
            }
            None if room => {
                self.0.push((gfn, view));
                true
            }
            None => false,
        }
    }

    /// No page is watched any more: those that were.
    pub fn take(&mut self) -> Vec<(u64, View)> {
        core::mem::take(&mut self.0)
    }

    /// Whether the page of `gpa` is watched.
    pub fn has(&self, gpa: Gpa) -> bool {
        self.0.iter().any(|&(gfn, _)| gfn == gpa.0 >> 12)
    }

    /// The watched pages in `[start, start + len)`.
    pub fn within(&self, start: Gpa, len: u64) -> Vec<(u64, View)> {
        let end = start.0.saturating_add(len);
        let pages = self.0.iter().copied();
        pages
            .filter(|&(gfn, _)| (start.0 >> 12..end.div_ceil(0x1000)).contains(&gfn))
            .collect()
    }
}

/// What a page has by the map.
pub(crate) fn whole(map: &Map, gfn: u64) -> Backing {
    map.get(gfn).map_or(Backing::Mmio, |place| Backing::Ram {
        hpa: place.hpa,
        writable: place.writable,
    })
}

/// What the hardware gets of it.
pub(crate) fn seen(map: &Map, gfn: u64, view: View) -> Backing {
    match (whole(map, gfn), view) {
        (Backing::Ram { hpa, .. }, View::ReadOnly) => Backing::Ram {
            hpa,
            writable: false,
        },
        _ => Backing::Mmio,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_its_strictest_view() {
        let mut views = Views::default();
        let page = Gpa(0x5000);
        assert!(views.add(page, View::ReadOnly));
        assert!(!views.add(page, View::ReadOnly));
        assert!(views.add(page, View::Nothing));
        assert!(!views.add(page, View::ReadOnly));
        assert!(views.has(Gpa(0x5fff)) && !views.has(Gpa(0x6000)));
        assert_eq!(views.within(Gpa(0x4000), 0x1000), []);
        assert_eq!(views.within(Gpa(0x4000), 0x1001), [(5, View::Nothing)]);
        assert_eq!(views.take(), [(5, View::Nothing)]);
        assert!(!views.has(page));
    }

    #[test]
    fn there_are_only_so_many() {
        let mut views = Views::default();
        let added = (0..1000).filter(|n| views.add(Gpa(n << 12), View::Nothing));
        assert_eq!(added.count(), MAX_PAGES);
    }
}
