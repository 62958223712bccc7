//! The report: the same numbers as text for people, as JSON for machines, and as one last line for both.

use serde::Serialize;
use std::fmt::Write;

/// What the demo saw. Times are milliseconds.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// True only if nothing acknowledged is lost and both regions are equal.
    pub ok: bool,
    /// Acknowledged cells that one region or the other lacks, or shows with another value, after the return.
    pub lost: u64,
    /// True if both regions have the same content hash and the same stamps hash.
    pub equal: bool,
    /// Longest pause between two acknowledgements of any tablet while nothing was broken.
    pub steady_gap_ms: u64,
    /// Greatest lag that east reported before it died, looked at twice a second.
    pub lag_max_ms: u64,
    /// Longest pause between two acknowledgements of a tablet whose leader was killed.
    pub leader_gap_ms: u64,
    /// From the kill of east to the first acknowledgement by west, the slowest tablet.
    pub rto_ms: u64,
    /// Age, when east died, of the oldest acknowledged write that west did not have.
    pub rpo_ms: u64,
    /// Row mutations acknowledged by east that west did not have when east died. They come back with east.
    pub rpo_writes: u64,
    /// From the start of east's processes, under load, until each region has applied everything that the other had at that
    /// moment. That both are equal is looked at when the load has ended: [`Report::settle_ms`] and the hashes.
    pub converge_ms: u64,
    /// From the start of east's processes until its nodes are ready.
    pub region_ready_ms: u64,
    /// From the end of the load until both regions are equal and nothing is in flight.
    pub settle_ms: u64,
    /// What was given.
    pub settings: SettingsReport,
    /// What was written.
    pub writes: WritesReport,
    /// What the audits found, one a region.
    pub regions: Vec<RegionReport>,
    /// What went wrong, in words; empty if nothing.
    pub troubles: Vec<String>,
}

/// The demo's settings.
#[derive(Clone, Debug, Default, Serialize)]
pub struct SettingsReport {
    /// Seconds of load.
    pub seconds: u64,
    /// The fleet's seed.
    pub seed: u64,
    /// Devices.
    pub devices: u32,
    /// Ticks a second that were due.
    pub rate: u32,
    /// Tablets of the table.
    pub tablets: u32,
}

/// What was written and what came of it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct WritesReport {
    /// Fleet ticks (row mutations of ten cells) handed to the client.
    pub ticks_issued: u64,
    /// Acknowledged.
    pub ticks_acknowledged: u64,
    /// Refused for certain.
    pub ticks_refused: u64,
    /// Answer lost: applied or not, nobody knows. Counted, not lost.
    pub ticks_unknown: u64,
    /// Due, and not even tried, because the client was two seconds behind.
    pub ticks_skipped: u64,
    /// Probes acknowledged.
    pub probes_acknowledged: u64,
    /// Cells of sensor files acknowledged.
    pub sensor_cells_acknowledged: u64,
    /// Cells acknowledged in all.
    pub cells_acknowledged: u64,
    /// The first error that a write ended with, or empty.
    pub first_error: String,
}

/// One region at the end.
#[derive(Clone, Debug, Default, Serialize)]
pub struct RegionReport {
    /// Its name.
    pub name: String,
    /// Rows shown.
    pub rows: u64,
    /// Cells shown.
    pub cells: u64,
    /// Hash of the visible cells, hexadecimal.
    pub content_hash: String,
    /// The same with the cells' stamps.
    pub stamps_hash: String,
    /// Acknowledged cells that it does not show.
    pub cells_missing: u64,
    /// Acknowledged cells that it shows with another value.
    pub cells_different: u64,
    /// Fleet ticks that it shows although their answer was lost.
    pub unacknowledged_shown: u64,
    /// Cells that nobody wrote.
    pub strangers: u64,
}

impl Report {
    /// The last line of the demo.
    pub fn last_line(&self) -> String {
        format!(
            "demo: {} lost={} equal={} leader_gap_ms={} rto_ms={} rpo_ms={} converge_ms={}",
            if self.ok { "ok" } else { "FAILED" },
            self.lost,
            self.equal,
            self.leader_gap_ms,
            self.rto_ms,
            self.rpo_ms,
            self.converge_ms
        )
    }

    /// Decides `ok`, `lost` and `equal` from the regions' numbers.
    pub fn judge(&mut self) {
        self.lost = self.regions.iter().map(|r| r.cells_missing + r.cells_different).sum();
        let hashes = |r: &RegionReport| (r.rows, r.cells, r.content_hash.clone(), r.stamps_hash.clone());
        self.equal = self.regions.len() == 2
            && !self.regions[0].content_hash.is_empty()
            && hashes(&self.regions[0]) == hashes(&self.regions[1]);
        let strangers: u64 = self.regions.iter().map(|r| r.strangers).sum();
        if strangers > 0 {
            self.troubles
                .push(format!("{strangers} cells are shown that nobody wrote"));
        }
        self.ok = self.lost == 0 && self.equal && self.troubles.is_empty();
    }

    /// The report for people, without the last line.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let mut line = |name: &str, value: String| {
            // Writing into a String cannot fail.
            let _ = writeln!(out, "  {name:<34} {value}");
        };
        let w = &self.writes;
        let s = &self.settings;
        line(
            "load",
            format!(
                "{} s, {} devices, {} ticks/s of 10 cells, seed {}",
                s.seconds, s.devices, s.rate, s.seed
            ),
        );
        line(
            "writes acknowledged",
            format!("{} ticks, {} cells", w.ticks_acknowledged, w.cells_acknowledged),
        );
        line(
            "writes not acknowledged",
            format!(
                "{} unknown, {} refused, {} not tried",
                w.ticks_unknown, w.ticks_refused, w.ticks_skipped
            ),
        );
        line("acknowledged cells lost", self.lost.to_string());
        line(
            "before: longest gap, greatest lag",
            format!("{} ms, {} ms", self.steady_gap_ms, self.lag_max_ms),
        );
        line("leader killed: gap", format!("{} ms", self.leader_gap_ms));
        line("region killed: gap (RTO)", format!("{} ms", self.rto_ms));
        line(
            "region killed: west lacked (RPO)",
            format!("{} writes, the oldest {} ms old", self.rpo_writes, self.rpo_ms),
        );
        line("region back: ready after", format!("{} ms", self.region_ready_ms));
        line(
            "region back: caught up after",
            format!(
                "{} ms under load; equal {} ms after the load ended",
                self.converge_ms, self.settle_ms
            ),
        );
        for r in &self.regions {
            line(
                &format!("{}: content hash", r.name),
                format!("{} ({} rows, {} cells)", r.content_hash, r.rows, r.cells),
            );
            line(&format!("{}: stamps hash", r.name), r.stamps_hash.clone());
            line(
                &format!("{}: audit", r.name),
                format!(
                    "{} missing, {} different, {} strangers",
                    r.cells_missing, r.cells_different, r.strangers
                ),
            );
        }
        if !w.first_error.is_empty() {
            line("first error of a write", w.first_error.clone());
        }
        for trouble in &self.troubles {
            line("trouble", trouble.clone());
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(hash: &str, missing: u64) -> RegionReport {
        RegionReport {
            content_hash: hash.into(),
            cells_missing: missing,
            ..RegionReport::default()
        }
    }

    #[test]
    fn the_last_line_is_as_promised() {
        let mut report = Report {
            leader_gap_ms: 1,
            rto_ms: 2,
            rpo_ms: 3,
            converge_ms: 4,
            ..Report::default()
        };
        report.regions = vec![region("aa", 0), region("aa", 0)];
        report.judge();
        assert_eq!(
            report.last_line(),
            "demo: ok lost=0 equal=true leader_gap_ms=1 rto_ms=2 rpo_ms=3 converge_ms=4"
        );
    }

    #[test]
    fn a_lost_cell_an_unequal_region_or_a_stranger_fails_the_demo() {
        let mut stranger = region("aa", 0);
        stranger.strangers = 1;
        let cases = [
            vec![region("aa", 1), region("aa", 0)],
            vec![region("aa", 0), region("ab", 0)],
            vec![region("aa", 0)],
            vec![region("", 0), region("", 0)],
            vec![region("aa", 0), stranger],
        ];
        for regions in cases {
            let mut report = Report {
                regions,
                ..Report::default()
            };
            report.judge();
            assert!(!report.ok, "{report:?}");
            assert!(
                report.last_line().starts_with("demo: FAILED lost="),
                "{}",
                report.last_line()
            );
        }
    }

    #[test]
    fn text_and_json_carry_the_numbers() {
        let report = Report {
            rto_ms: 1234,
            regions: vec![region("cafe", 0)],
            ..Report::default()
        };
        assert!(report.text().contains("1234 ms") && report.text().contains("cafe"));
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["rto_ms"], 1234);
        assert_eq!(json["regions"][0]["content_hash"], "cafe");
    }
}
