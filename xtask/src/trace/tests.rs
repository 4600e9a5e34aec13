use hv_core::debug::Seen;
use hv_core::exit::{ExitReason, VmExit};
use hv_core::time::VmTime;
use hv_core::trace::{Came, Full, Tracer};

use super::show::show;
use super::*;
use crate::cli::TraceArgs;

/// A trace of `cpus` virtual CPUs with two CPUIDs and a HLT each.
fn sample(cpus: u8) -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.trace");
    let mut file = File::create(&path).unwrap();
    let mut buffer = [0; 8192];
    for cpu in 0..cpus {
        let mut tracer = Tracer::new(Filter::default(), Full::Lose).unwrap();
        for reason in [ExitReason::Cpuid, ExitReason::Cpuid, ExitReason::Hlt] {
            let exit = VmExit {
                reason,
                next_rip: None,
                vectoring: None,
                untaken: None,
            };
            let came = Came {
                pc: 0x7c02,
                at: VmTime(3_500),
                ..Came::default()
            };
            tracer.begin(cpu, || Seen {
                exit,
                at: VmTime(1_000),
                pc: 0x7c00,
                cpl: 0,
                cr3: 0,
                rax: 1,
                rcx: 0,
                rdx: 0,
                operand: 0,
                came,
            });
        }
        let chunk = tracer.take(cpu, true, &mut buffer).unwrap();
        file.write(1, chunk).unwrap();
    }
    file.end().unwrap();
    fs::read(path).unwrap()
}

fn args() -> TraceArgs {
    TraceArgs {
        file: PathBuf::new(),
        filter: None,
        json: false,
        count: false,
        why: None,
        perfetto: None,
        plot: None,
    }
}

fn shown(args: TraceArgs, bytes: &[u8], words: &str) -> Result<String> {
    let mut out = Vec::new();
    show(&args, bytes, &Filter::parse(words).unwrap(), &mut out)?;
    Ok(String::from_utf8(out).unwrap())
}

#[test]
fn a_trace_is_lines_objects_and_counts() {
    let bytes = sample(1);
    let lines = shown(args(), &bytes, "all").unwrap();
    assert_eq!(lines.lines().count(), 3);
    assert!(lines.starts_with(
        "0 vm=1 cpu=0 ns=1000 reason=cpuid pc=0x7c00 cpl=0 cr3=0x0 leaf=0x1 subleaf=0x0 next=0x7c02 took=2500\n"
    ));
    let json = TraceArgs {
        json: true,
        ..args()
    };
    for line in shown(json, &bytes, "all").unwrap().lines() {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(value["pc"], "0x7c00");
    }
    let count = || TraceArgs {
        count: true,
        ..args()
    };
    let counts = shown(count(), &bytes, "all").unwrap();
    let counts: Vec<_> = counts.split_whitespace().collect();
    assert_eq!(counts, ["2", "cpuid", "1", "hlt", "3", "in", "all"]);
    let counts = shown(count(), &bytes, "reason:hlt").unwrap();
    assert_eq!(counts.split_whitespace().next(), Some("1"));
}

#[test]
fn an_exit_is_explained_by_its_number() {
    let why = |number, json| TraceArgs {
        why: Some(number),
        json,
        ..args()
    };
    let text = shown(why(2, false), &sample(1), "all").unwrap();
    assert!(text.contains("what: it executes HLT"), "{text}");
    let text = shown(why(2, true), &sample(1), "all").unwrap();
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["what"], "it executes HLT");
    assert!(shown(why(3, false), &sample(1), "all").is_err());
    let error = shown(why(2, false), &sample(2), "all").unwrap_err();
    assert!(error.to_string().contains("--filter vm:1,cpu:0"), "{error}");
    assert!(shown(why(2, false), &sample(2), "cpu:1").is_ok());
}

#[test]
fn perfetto_gets_a_slice_for_each_exit() {
    let json = perfetto::export(&sample(2), &Filter::default()).unwrap();
    let value: serde_json::Value = serde_json::from_str(&json).unwrap();
    let events = value["traceEvents"].as_array().unwrap();
    let slices: Vec<_> = events.iter().filter(|event| event["ph"] == "X").collect();
    assert_eq!(slices.len(), 6);
    assert_eq!(
        (&slices[0]["ts"], &slices[0]["dur"]),
        (&1.0.into(), &2.5.into())
    );
    assert_eq!(events.len(), 6 + 4, "and names");
}

#[test]
fn a_picture_has_every_exit_in_the_column_of_its_time() {
    let counts = plot::Counts::of(&sample(2), &Filter::default()).unwrap();
    assert_eq!((counts.first, counts.last), (1_000, 1_000));
    let sums = counts.reasons.iter().map(|(name, columns)| {
        assert!(
            columns.iter().skip(1).all(|&n| n == 0),
            "{name}: all at once"
        );
        (name.as_str(), columns[0])
    });
    assert_eq!(sums.collect::<Vec<_>>(), [("cpuid", 4), ("hlt", 2)]);
    let cpuid = Filter::parse("reason:cpuid").unwrap();
    let svg = plot::draw(&sample(1), &cpuid).unwrap();
    assert!(svg.starts_with("<svg") && svg.contains("cpuid, 2"), "{svg}");
    assert!(!svg.contains("hlt"));
    let none = plot::draw(&MAGIC, &Filter::default()).unwrap_err();
    assert!(none.to_string().contains("no exit"));
}

#[test]
fn a_file_that_is_cut_off_is_read_as_far_as_it_goes() {
    let bytes = sample(2);
    let mut seen = 0;
    let mut count = |bytes: &[u8]| {
        seen = 0;
        let result = read(bytes, &mut |_, _| {}, &mut |_, _, _| {
            seen += 1;
            Ok(())
        });
        (seen, result.is_ok())
    };
    assert_eq!(count(&bytes), (6, true));
    let cut = bytes.get(..bytes.len() - 1).unwrap();
    assert_eq!(count(cut), (3, false));
    assert_eq!(count(b"UMBRATR\x02"), (0, false));
    assert_eq!(count(&MAGIC), (0, true));
}

#[test]
fn a_filter_with_a_wrong_word_is_refused() {
    let file = Path::new("x.trace");
    let error = Wanted::check(file, Some("reason:cpu")).unwrap_err();
    assert!(error.to_string().starts_with("--trace-filter reason:cpu: "));
    assert!(Wanted::check(file, Some("reason:cpuid, pc:1")).is_err());
    let wanted = Wanted::check(file, Some("vm:2")).unwrap();
    assert_eq!(
        (wanted.filter_for(1), wanted.filter_for(2)),
        (None, Some("vm:2"))
    );
}
