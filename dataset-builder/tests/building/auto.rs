//! `build auto DIR` names the layout that it finds.

use std::path::Path;

use crate::support::{Folder, lavida_dataset, outcome};
use crate::trees;

fn auto(dir: &Path) -> (i32, String) {
    let (out, dir) = (Folder::new(), dir.display().to_string());
    let out = out.join("out").display().to_string();
    outcome(&lavida_dataset(&["build", "auto", &dir, "--out", &out]))
}

#[test]
fn every_published_layout_is_found_by_its_folder() {
    let folder = tempfile::tempdir().expect("tempdir");
    trees::lay(folder.path());
    for (dir, source) in [
        ("ADEChallengeData2016", "ade20k"),
        ("ADE20K_2021_17_01", "ade20k-full"),
        ("cityscapes", "cityscapes"),
        ("mapillary-vistas-2.0", "mapillary"),
        ("mapillary-vistas-1.2", "mapillary"),
        ("mapillary-vistas", "mapillary"),
        ("cocostuff", "coco-stuff"),
        ("concrete", "masked-images"),
        ("DAVIS", "davis"),
        ("youtube-vos", "youtube-vos"),
        ("MeViS", "mevis"),
        ("Ref-YouTube-VOS", "ref-youtube-vos"),
        ("Ref-DAVIS17", "ref-davis"),
        ("mine", "labelled-videos"),
        ("UBnormal", "ubnormal"),
        ("shanghaitech", "shanghaitech"),
        ("UCF_Crimes", "ucf-crime"),
        ("XD-Violence", "xd-violence"),
        ("UCSD_Anomaly_Dataset.v1p2", "ucsd-ped"),
        ("Avenue", "avenue"),
    ] {
        let (code, said) = auto(&folder.path().join(dir));
        assert_eq!(code, 0, "{dir}: {said}");
        assert!(
            said.contains(&format!("found the layout of {source}\n")),
            "{dir}: {said}"
        );
    }
}

#[test]
fn several_layouts_none_and_one_folder_down_are_named() {
    let folder = tempfile::tempdir().expect("tempdir");
    trees::lay(folder.path());
    let check = |dir: &Path, words: &[&str]| {
        let (code, said) = auto(dir);
        assert_eq!(code, 2, "{said}");
        assert!(words.iter().all(|word| said.contains(word)), "{said}");
    };
    check(
        &folder.path().join("refer_seg"),
        &[
            "refclef, refcoco, refcoco+, refcocog, grefcoco",
            "in the place of `auto`",
        ],
    );
    check(
        &folder.path().join("cityscapes/gtFine/train"),
        &["the layout of a source", "bonn"],
    );
    std::fs::create_dir(folder.path().join("unpacked")).expect("mkdir");
    std::fs::rename(
        folder.path().join("MeViS"),
        folder.path().join("unpacked/MeViS"),
    )
    .expect("rename");
    check(&folder.path().join("unpacked"), &["mevis in", "MeViS"]);
}
