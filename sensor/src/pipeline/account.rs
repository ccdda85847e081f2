//! The bounded places of the pipeline in the ledger: how full each is, and how often it was too full. The names stand in
//! docs/loss.md; a test compares.

use super::Pipeline;
use crate::enrich::close_watch::CloseEnd;

impl Pipeline {
    pub(super) fn account_of_places(&mut self) {
        let table = self.table.gauge();
        let describer = &self.table.describer;
        let (users, cgroups) = (describer.users.gauge(), describer.places.gauge());
        let containers = describer.containers.gauge();
        let count = |length: usize| u64::try_from(length).unwrap_or(u64::MAX);
        let mut places = vec![
            ("reorder.bytes", count(self.reorder.bytes())),
            ("reorder.released_early", self.reorder.released_early()),
            ("reorder.late", self.reorder.late()),
            ("hold.bytes", count(self.hold.bytes())),
            ("hold.released_early", self.hold.released_early()),
            ("open_files", count(self.late.open_files())),
            ("open_files.forgotten", self.late.forgotten()),
            ("scripts", count(self.scripts.len())),
            ("scripts.forgotten", self.scripts_forgotten),
            ("attempts", count(self.attempts.len())),
            ("attempts.forgotten", self.attempts_forgotten),
            ("aggregates", count(self.aggregator.len())),
            ("aggregates.displaced", self.aggregates_displaced),
            ("process_table.processes", count(table.processes)),
            ("process_table.living", count(table.living)),
            ("process_table.bytes", count(table.bytes)),
            ("process_table.evicted_ended", table.evicted_ended),
            ("process_table.evicted_remnants", table.evicted_remnants),
            ("process_table.evicted_living", table.evicted_living),
            ("process_table.synthesised", table.synthesised),
            ("process_table.end_unseen", table.end_unseen),
            ("process_table.scripts_forgotten", table.scripts_forgotten),
            ("owing", count(table.owing)),
            ("owing.forgotten", table.owing_forgotten),
            ("owing.execs", count(self.begun.len())),
            ("owing.execs_forgotten", self.begun.evicted()),
            ("users.remembered", count(users.entries)),
            ("users.evicted", users.evicted),
            ("users.waiting", count(users.waiting)),
            ("users.refused", users.refused),
            ("cgroups.remembered", count(cgroups.entries)),
            ("cgroups.evicted", cgroups.evicted),
            ("cgroups.waiting", count(cgroups.waiting)),
            ("cgroups.refused", cgroups.refused),
            ("containers.remembered", count(containers.entries)),
            ("containers.evicted", containers.evicted),
            ("containers.waiting", count(containers.waiting)),
            ("containers.refused", containers.refused),
            ("containers.found", containers.found),
            ("containers.unknown", containers.unknown),
            ("containers.unreadable", containers.unreadable),
        ];
        if let Some((pool, _)) = &self.hashes {
            let stats = pool.stats();
            places.extend([
                ("hash.accepted", stats.accepted),
                ("hash.refused", stats.refused),
                ("hash.waiting", count(stats.waiting)),
                ("hash.open", count(stats.pinned)),
                ("hash.released_full", stats.released_full),
                ("hash.released_late", stats.released_late),
                ("hash.hits", stats.hits),
                ("hash.misses", stats.misses),
                ("hash.read_files", stats.read_files),
                ("hash.read_bytes", stats.read_bytes),
                ("hash.remembered", count(stats.cached)),
                ("hash.evicted", stats.evicted),
                ("hash.watches", count(stats.watches)),
                ("hash.stuck", stats.stuck),
            ]);
        }
        if let Some((watch, _)) = &self.closes {
            let stats = watch.stats();
            places.extend([
                ("close_watch.accepted", stats.accepted),
                ("close_watch.refused", stats.refused),
                ("close_watch.waiting", count(stats.waiting)),
                ("close_watch.watched", count(stats.watched)),
                ("close_watch.displaced", stats.ended(CloseEnd::Displaced)),
                ("close_watch.still_open", stats.ended(CloseEnd::StillOpen)),
                ("close_watch.unwatched", stats.unwatched),
                ("close_watch.overflows", stats.overflows),
            ]);
        }
        for (name, value) in places {
            self.ledger.place(name, value);
        }
    }
}
