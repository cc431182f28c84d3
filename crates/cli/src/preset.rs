//! Presets: what a mount is for, as settings. One table; what was given on the command line wins over it.
//!
//! A preset changes no meaning of its own: it gives options that were not given. So everything it chooses can be given differently, and
//! `sluicefs status` shows each setting with who chose it, and why.

use serde_json::{Value, json};

use crate::args::{MountArgs, PresetArg, TtlArg, VersionsArg};
use crate::failure::Failure;

/// What a preset chooses, and why.
#[derive(Debug, Clone, Copy)]
struct Cell<T> {
    value: T,
    why: &'static str,
}

/// One preset.
#[derive(Debug)]
struct Row {
    preset: PresetArg,
    /// `None`: as the program has it without presets.
    metadata_ttl: Cell<Option<TtlArg>>,
    /// `None`: as long as presence.
    negative_metadata_ttl: Cell<Option<TtlArg>>,
    versions: Cell<VersionsArg>,
    read_only: Cell<bool>,
    read_ahead_kb: Cell<u32>,
    /// Of the memory, written bytes have one of so many shares.
    shares_of_memory: Cell<u64>,
    /// The largest first parts of uploads that fit, in bytes: sixteen of them into the memory for written bytes.
    write_part_size: Cell<u64>,
}

/// Sixteen parts at a time fill a fast line to S3, where one connection carries about 100 MB/s; larger ones in the same memory would be fewer.
const PARTS_AT_ONCE: u64 = 16;

/// The first parts of uploads, unless a preset has reason for larger ones.
const PART_BYTES: u64 = 8 << 20;

const USUAL_READ_AHEAD: Cell<u32> = cell(1024, "one request of the kernel ahead of a reader");
const USUAL_PARTS: Cell<u64> = cell(PART_BYTES, "files up to this long are one request");
const NEWEST: Cell<VersionsArg> = cell(VersionsArg::Newest, "what is opened is what the bucket holds then");
const CHANGES: Cell<bool> = cell(false, "files can be written");
const A_QUARTER: Cell<u64> = cell(4, "reading has the rest");
const AS_PRESENCE: Cell<Option<TtlArg>> = cell(None, "as long as presence");

const TABLE: [Row; 4] = [
    Row {
        preset: PresetArg::General,
        metadata_ttl: cell(None, "changes from elsewhere are seen soon"),
        negative_metadata_ttl: AS_PRESENCE,
        versions: NEWEST,
        read_only: CHANGES,
        read_ahead_kb: USUAL_READ_AHEAD,
        shares_of_memory: A_QUARTER,
        write_part_size: USUAL_PARTS,
    },
    Row {
        preset: PresetArg::Model,
        metadata_ttl: cell(
            Some(TtlArg::Indefinite),
            "a model does not change; sluicefs refresh takes a new one",
        ),
        negative_metadata_ttl: AS_PRESENCE,
        versions: cell(VersionsArg::Pinned, "all files are of one moment, or stale"),
        read_only: cell(true, "weights are not written to"),
        read_ahead_kb: cell(4096, "a mapping that is read in order faults less often"),
        shares_of_memory: cell(4, "nothing is written, so reading has all of it"),
        write_part_size: USUAL_PARTS,
    },
    Row {
        preset: PresetArg::Dataset,
        metadata_ttl: cell(Some(TtlArg::Seconds(60)), "epochs look at the same names again and again"),
        negative_metadata_ttl: cell(Some(TtlArg::Seconds(5)), "who waits for a new file sees it soon"),
        versions: NEWEST,
        read_only: CHANGES,
        read_ahead_kb: USUAL_READ_AHEAD,
        shares_of_memory: A_QUARTER,
        write_part_size: USUAL_PARTS,
    },
    Row {
        preset: PresetArg::Checkpoint,
        metadata_ttl: cell(Some(TtlArg::Seconds(1)), "other ranks see what is written soon"),
        negative_metadata_ttl: AS_PRESENCE,
        versions: NEWEST,
        read_only: CHANGES,
        read_ahead_kb: USUAL_READ_AHEAD,
        shares_of_memory: cell(2, "more parts are on their way at once"),
        write_part_size: cell(32 << 20, "large files need fewer requests; sixteen parts fit into the memory"),
    },
];

const fn cell<T: Copy>(value: T, why: &'static str) -> Cell<T> {
    Cell { value, why }
}

/// Who chose a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    /// It was given on the command line.
    Given,
    /// The preset.
    Preset,
}

/// A setting that presets are about, as it is for one mount.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Setting {
    name: &'static str,
    value: String,
    by: By,
    /// Of what was given the user knows.
    why: Option<&'static str>,
}

/// The settings of one mount.
#[derive(Debug, Clone)]
pub(crate) struct Chosen {
    /// The options with everything filled in that presets are about.
    pub(crate) args: MountArgs,
    /// Written bytes have one of so many shares of the memory.
    pub(crate) shares_of_memory: u64,
    preset: PresetArg,
    settings: Vec<Setting>,
}

impl Chosen {
    /// What `given` means in a process that may have `memory_bytes` for data, and believes names for `usual_ttl`.
    ///
    /// # Errors
    /// If an option contradicts the preset.
    pub(crate) fn new(given: &MountArgs, usual_ttl: TtlArg, memory_bytes: u64) -> Result<Self, Failure> {
        let preset = given.reading.preset.unwrap_or(PresetArg::General);
        let row = TABLE.iter().find(|row| row.preset == preset).expect("the table has all presets");
        let mut args = given.clone();
        let mut settings = Settings::default();
        let ttl = cell(row.metadata_ttl.value.unwrap_or(usual_ttl), row.metadata_ttl.why);
        let ttl = settings.choose("metadata-ttl", &mut args.reading.metadata_ttl, ttl);
        // Who says how long presence is believed means absence too.
        let negative = match given.reading.metadata_ttl {
            Some(_) => cell(ttl, AS_PRESENCE.why),
            None => cell(row.negative_metadata_ttl.value.unwrap_or(ttl), row.negative_metadata_ttl.why),
        };
        settings.choose("negative-metadata-ttl", &mut args.reading.negative_metadata_ttl, negative);
        let versions = settings.choose("versions", &mut args.reading.versions, row.versions);
        let mut read_only = given.files.read_only.then_some(true);
        args.files.read_only = settings.choose("read-only", &mut read_only, row.read_only);
        if args.files.read_only && !given.files.read_only {
            refuse_writing(given)?;
        }
        if versions == VersionsArg::Pinned && !args.files.read_only {
            return Err(Failure::usage(
                "--versions pinned is for mounts that change nothing: add --read-only, or use --preset model",
            ));
        }
        settings.choose("read-ahead-kb", &mut args.reading.read_ahead_kb, row.read_ahead_kb);
        if !args.files.read_only {
            let memory = given.reading.memory_target.unwrap_or(memory_bytes) / row.shares_of_memory.value;
            let most = (memory / PARTS_AT_ONCE).max(PART_BYTES) >> 20 << 20;
            let part = cell(row.write_part_size.value.min(most), row.write_part_size.why);
            let mut size = given.writing.write_part_size.or(given.reading.part_size);
            args.writing.write_part_size = Some(settings.choose("write-part-size", &mut size, part));
            let share = format!("1/{}", row.shares_of_memory.value);
            settings.note("memory-for-writing", share, By::Preset, Some(row.shares_of_memory.why));
        }
        let (shares_of_memory, Settings(settings)) = (row.shares_of_memory.value, settings);
        Ok(Self { args, shares_of_memory, preset, settings })
    }

    /// What was chosen, on one line.
    pub(crate) fn line(&self) -> String {
        let by = |by| match by {
            By::Given => " (given)",
            By::Preset => "",
        };
        let settings = self.settings.iter();
        let settings: Vec<_> =
            settings.map(|setting| format!("{} {}{}", setting.name, setting.value, by(setting.by))).collect();
        format!("preset {}: {}", word(self.preset), settings.join(", "))
    }

    /// What was chosen, by whom and why, for programs.
    pub(crate) fn as_json(&self) -> Value {
        let by = |by| match by {
            By::Given => "given",
            By::Preset => "preset",
        };
        let setting = |setting: &Setting| json!({ "setting": setting.name, "value": setting.value, "by": by(setting.by), "why": setting.why });
        json!({
            "name": word(self.preset),
            "settings": self.settings.iter().map(setting).collect::<Vec<_>>(),
        })
    }
}

/// In the order in which they are shown.
#[derive(Debug, Default)]
struct Settings(Vec<Setting>);

impl Settings {
    /// Fills in what was not given, and returns what it is then.
    fn choose<T: Copy + Shown>(
        &mut self,
        name: &'static str,
        given: &mut Option<T>,
        otherwise: Cell<T>,
    ) -> T {
        let (by, why) = match given {
            Some(_) => (By::Given, None),
            None => (By::Preset, Some(otherwise.why)),
        };
        let value = *given.get_or_insert(otherwise.value);
        self.note(name, value.shown(), by, why);
        value
    }

    fn note(&mut self, name: &'static str, value: String, by: By, why: Option<&'static str>) {
        self.0.push(Setting { name, value, by, why });
    }
}

/// Options about writing contradict a preset for reading.
fn refuse_writing(given: &MountArgs) -> Result<(), Failure> {
    let stage = given.reading.stage_size.map(|_| "--stage-size");
    match given.writing.first_given().or(stage) {
        None => Ok(()),
        Some(option) => Err(Failure::usage(format!(
            "--preset model mounts read-only, and {option} is about writing: leave one of them out, or use another preset"
        ))),
    }
}

/// As it is written on the command line.
trait Shown {
    fn shown(self) -> String;
}

impl Shown for TtlArg {
    fn shown(self) -> String {
        self.to_string()
    }
}

impl Shown for VersionsArg {
    fn shown(self) -> String {
        match self {
            Self::Newest => "newest",
            Self::Pinned => "pinned",
        }
        .to_owned()
    }
}

impl Shown for bool {
    fn shown(self) -> String {
        self.to_string()
    }
}

impl Shown for u32 {
    fn shown(self) -> String {
        self.to_string()
    }
}

impl Shown for u64 {
    fn shown(self) -> String {
        self.to_string()
    }
}

fn word(preset: PresetArg) -> &'static str {
    match preset {
        PresetArg::General => "general",
        PresetArg::Model => "model",
        PresetArg::Dataset => "dataset",
        PresetArg::Checkpoint => "checkpoint",
    }
}

/// The table, for `--help`.
pub(crate) fn help() -> String {
    let shown = |cell: fn(&Row) -> String| TABLE.each_ref().map(cell);
    let rows: [(&str, [String; 4]); 8] = [
        ("Presets:", shown(|row| word(row.preset).to_owned())),
        ("--metadata-ttl", shown(|row| row.metadata_ttl.value.unwrap_or(TtlArg::Seconds(1)).shown())),
        (
            "--negative-metadata-ttl",
            shown(|row| {
                row.negative_metadata_ttl
                    .value
                    .or(row.metadata_ttl.value)
                    .unwrap_or(TtlArg::Seconds(1))
                    .shown()
            }),
        ),
        ("--versions", shown(|row| row.versions.value.shown())),
        ("--read-only", shown(|row| if row.read_only.value { "yes" } else { "no" }.to_owned())),
        ("--read-ahead-kb", shown(|row| row.read_ahead_kb.value.shown())),
        (
            "memory for writing",
            shown(|row| {
                if row.read_only.value {
                    "none".to_owned()
                } else {
                    format!("1/{}", row.shares_of_memory.value)
                }
            }),
        ),
        (
            "--write-part-size",
            shown(|row| match (row.read_only.value, row.write_part_size.value >> 20) {
                (true, _) => "-".to_owned(),
                (false, mib) if row.write_part_size.value > PART_BYTES => format!("up to {mib} MiB"),
                (false, mib) => format!("{mib} MiB"),
            }),
        ),
    ];
    let line = |(name, cells): &(&str, [String; 4])| {
        let [a, b, c, d] = cells;
        format!("    {name:<24} {a:<10} {b:<11} {c:<10} {d}").trim_end().to_owned()
    };
    let table: Vec<String> = rows.iter().map(line).collect();
    format!(
        "{}\n\nWhat is given wins. In all of them the kernel keeps pages of what was read, unless a program opens files with O_DIRECT, and the \
         cache on disk is used where --cache names one.",
        table.join("\n")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::tests::parse;

    fn chosen(options: &[&str]) -> Result<Chosen, String> {
        Chosen::new(&parse(options), TtlArg::Seconds(1), 1 << 30).map_err(|failure| failure.message)
    }

    #[test]
    fn a_preset_chooses_what_is_not_given() {
        for (options, expected) in [
            (
                &[][..],
                "preset general: metadata-ttl 1, negative-metadata-ttl 1, versions newest, read-only false, read-ahead-kb 1024, \
                 write-part-size 8388608, memory-for-writing 1/4",
            ),
            (
                &["--preset=model"],
                "preset model: metadata-ttl indefinite, negative-metadata-ttl indefinite, versions pinned, read-only true, read-ahead-kb 4096",
            ),
            (
                &["--preset=model", "--metadata-ttl=60", "--read-ahead-kb=128"],
                "preset model: metadata-ttl 60 (given), negative-metadata-ttl 60, versions pinned, read-only true, read-ahead-kb 128 (given)",
            ),
            (
                &["--preset=model", "--versions=newest", "--negative-metadata-ttl=minimal"],
                "preset model: metadata-ttl indefinite, negative-metadata-ttl minimal (given), versions newest (given), read-only true, \
                 read-ahead-kb 4096",
            ),
            (
                &["--preset=dataset", "--read-only"],
                "preset dataset: metadata-ttl 60, negative-metadata-ttl 5, versions newest, read-only true (given), read-ahead-kb 1024",
            ),
            (
                &["--preset=checkpoint"],
                "preset checkpoint: metadata-ttl 1, negative-metadata-ttl 1, versions newest, read-only false, read-ahead-kb 1024, \
                 write-part-size 33554432, memory-for-writing 1/2",
            ),
            (
                &["--preset=checkpoint", "--memory-target=512", "--part-size=6291456"],
                "preset checkpoint: metadata-ttl 1, negative-metadata-ttl 1, versions newest, read-only false, read-ahead-kb 1024, \
                 write-part-size 6291456 (given), memory-for-writing 1/2",
            ),
            (
                &["--preset=checkpoint", "--memory-target=100"],
                "preset checkpoint: metadata-ttl 1, negative-metadata-ttl 1, versions newest, read-only false, read-ahead-kb 1024, \
                 write-part-size 8388608, memory-for-writing 1/2",
            ),
        ] {
            assert_eq!(chosen(options).unwrap().line(), expected, "{options:?}");
        }
    }

    #[test]
    fn who_chose_and_why_is_told() {
        let told = chosen(&["--preset=model", "--metadata-ttl=60"]).unwrap().as_json();
        assert_eq!(told["name"], "model");
        assert_eq!(
            told["settings"][0],
            json!({ "setting": "metadata-ttl", "value": "60", "by": "given", "why": null })
        );
        let versions = &told["settings"][2];
        assert_eq!((&versions["setting"], &versions["by"]), (&"versions".into(), &"preset".into()));
        assert!(versions["why"].as_str().is_some_and(|why| !why.is_empty()), "{versions}");
    }

    #[test]
    fn what_contradicts_a_preset_is_refused() {
        for (options, part) in [
            (&["--preset=model", "--write-part-size=8388608"][..], "--write-part-size is about writing"),
            (&["--preset=model", "--delete-behind"], "--delete-behind is about writing"),
            (&["--preset=model", "--tag=a=b"], "--tag is about writing"),
            (&["--preset=model", "--cache=/c", "--stage-size=1"], "--stage-size is about writing"),
            (&["--versions=pinned"], "add --read-only"),
            (&["--preset=checkpoint", "--versions=pinned"], "add --read-only"),
        ] {
            let refused = chosen(options).unwrap_err();
            assert!(refused.contains(part), "{options:?}: {refused}");
        }
        assert!(chosen(&["--versions=pinned", "--read-only"]).is_ok());
        assert!(chosen(&["--preset=model", "--no-delete", "--part-size=8388608"]).is_ok());
    }

    #[test]
    fn every_preset_makes_settings_that_fit_whatever_memory_there_is() {
        for row in &TABLE {
            for mib in [128_u64, 200, 512, 1024] {
                let target = format!("--memory-target={mib}");
                let options = [format!("--preset={}", word(row.preset)), target];
                let chosen = chosen(&options.each_ref().map(String::as_str)).unwrap();
                assert!(crate::settings::tests::fs_of(&chosen).is_ok(), "{options:?}");
            }
        }
    }
}
