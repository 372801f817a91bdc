//! `lavida bench`: what is measured, what is written, and that a smaller keep ratio is a smaller job.

use crate::support::{names, run_in};

#[test]
fn bench_compression_writes_a_table_a_plot_and_one_document() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("figures");
    let args = ["bench", "compression", "--out", "figures", "--json"];
    let sizes = ["--models", "tiny", "--visual-tokens", "400", "--steps", "1"];
    let ratios = ["--keep-ratios", "1,0.1"];
    let document = run_in(folder.path(), &[&args[..], &sizes, &ratios].concat()).json();
    let points = document["points"].as_array().unwrap();
    let positions: Vec<_> = points.iter().map(|p| p["positions"].as_u64()).collect();
    assert_eq!(positions, [Some(500), Some(140)]);
    for point in points {
        assert!(point["seconds"].as_f64().unwrap() > 0.0, "{point}");
        if cfg!(target_os = "linux") {
            let bytes = |name: &str| point[name].as_u64().unwrap();
            assert!(bytes("peak_bytes") > bytes("at_rest_bytes"), "{point}");
        }
    }
    if cfg!(target_os = "linux") {
        let peak = |at: usize| points[at]["peak_bytes"].as_u64().unwrap();
        assert!(peak(1) < peak(0), "{document}");
    }

    let expected = ["compression.json", "compression.md", "compression.svg"];
    let written = names(&out).into_iter();
    let written: Vec<String> = written.filter(|name| !name.starts_with('.')).collect();
    assert_eq!(written, expected);
    let table = std::fs::read_to_string(out.join("compression.md")).unwrap();
    assert_eq!(table.lines().count(), 4, "{table}");
    let plot = std::fs::read_to_string(out.join("compression.svg")).unwrap();
    assert!(plot.contains("tiny: peak memory"), "{plot}");
}

#[test]
fn a_keep_ratio_out_of_range_is_refused_before_anything_is_measured() {
    let folder = tempfile::tempdir().unwrap();
    let args = ["bench", "compression", "--out", "figures"];
    for ratio in ["0", "1.5", "NaN"] {
        let args = [&args[..], &["--keep-ratios", ratio]].concat();
        run_in(folder.path(), &args).refused(2, &["--keep-ratios", "(0, 1]"]);
    }
    assert_eq!(names(folder.path()), [""; 0]);
}
