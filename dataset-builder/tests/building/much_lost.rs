//! A build that loses much of its input says so and fails; what it lost is listed.

use lavida_data::dataset::Dataset;
use serde_json::json;

use crate::support::{CocoSource, Folder, is_committed, lavida_dataset, outcome, store_at};

/// A set of 20 images, of which `n_bad` have an annotation without a mask.
fn source(n_bad: usize) -> CocoSource {
    let mut source = CocoSource::new(20);
    for image in 0..n_bad {
        source.annotate(image, 3, json!([[1, 2, 3, 4]]));
    }
    source.write();
    source
}

fn build(source: &CocoSource, out: &Folder, more: &[&str]) -> (i32, String) {
    let path = |name: &str| source.folder.join(name).display().to_string();
    let (annotations, images, out) = (
        path("instances.json"),
        path("images"),
        out.join("dataset").display().to_string(),
    );
    let args = [
        "build",
        "coco",
        "--annotations",
        &annotations,
        "--images",
        &images,
        "--out",
        &out,
    ];
    outcome(&lavida_dataset(&[&args[..], more].concat()))
}

#[test]
fn a_few_faults_are_shown_and_more_than_a_share_fail_the_build() {
    let (few, much) = (source(3), source(6));
    let out = Folder::new();
    assert_eq!(build(&few, &out, &[]).0, 0);
    let out = Folder::new();
    let (code, said) = build(&much, &out, &[]);
    assert_eq!(code, 3, "{said}");
    assert!(
        said.contains("1 % of 20") && said.contains("polygon_too_short 6"),
        "{said}"
    );
    assert!(!is_committed(&out.join("dataset")));
    let (code, said) = build(&much, &out, &["--resume", "--max-bad-fraction", "0.5"]);
    assert_eq!(code, 0, "{said}");
    assert!(is_committed(&out.join("dataset")));
    // Told a share, even one fault is too much.
    let out = Folder::new();
    let (code, said) = build(&few, &out, &["--max-bad-fraction", "0"]);
    assert_eq!(code, 3, "{said}");
    let (code, said) = build(&few, &out, &["--max-bad-fraction", "2"]);
    assert_eq!(code, 2, "{said}");
}

#[tokio::test]
async fn what_was_left_out_is_listed_and_the_card_says_where_the_shards_are() {
    let source = source(2);
    let out = Folder::new();
    let (code, said) = build(&source, &out, &[]);
    assert_eq!(code, 0, "{said}");
    let dataset = out.join("dataset");
    let listed = std::fs::read(dataset.join("_errors.parquet")).expect("a list");
    assert!(listed.starts_with(b"PAR1") && listed.ends_with(b"PAR1"));
    let card = std::fs::read_to_string(dataset.join("README.md")).expect("a card");
    for expected in [
        "---\npretty_name: coco\n",
        "path: data/*.parquet",
        "split: train",
        "cocodataset.org",
        "`polygon_too_short` | 2",
    ] {
        assert!(card.contains(expected), "`{expected}` is not in {card}");
    }
    let opened = Dataset::open(&store_at(&dataset)).await.expect("opens");
    let report = opened.verify().await.expect("whole");
    assert_eq!(report.leftovers, Vec::<String>::new());
    let shards = std::fs::read_dir(dataset.join("data")).expect("a folder");
    let names: Vec<String> = shards
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    assert!(
        names
            .iter()
            .all(|name| name.starts_with("train-") && name.ends_with(".parquet")),
        "{names:?}"
    );
}

#[test]
fn a_readme_of_somebody_else_stays() {
    let source = source(0);
    let out = Folder::new();
    std::fs::create_dir_all(out.join("dataset")).expect("mkdir");
    std::fs::write(out.join("dataset/README.md"), "mine").expect("write");
    assert_eq!(build(&source, &out, &[]).0, 0);
    assert_eq!(
        std::fs::read_to_string(out.join("dataset/README.md")).expect("read"),
        "mine"
    );
}

#[test]
fn rows_that_show_every_category_are_counted_and_said() {
    let mut source = CocoSource::new(2);
    source.file["categories"] = json!([{ "id": 3, "name": "car" }]);
    source.write();
    let (code, said) = build(&source, &Folder::new(), &[]);
    assert_eq!(code, 0, "{said}");
    assert!(
        said.contains("2 of 2 samples show every category"),
        "{said}"
    );
}
