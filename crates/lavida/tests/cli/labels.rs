//! `eval` of benchmarks that label in other ways than frame by frame and pixel by pixel.

use futures::TryStreamExt;
use lavida_data::{clip::Clip, dataset::Dataset, shard::DatasetWriter};
use lavida_store::Store;
use serde_json::Value;

use crate::support::World;

/// The rendered evaluation set (two videos of five frames), each clip changed, as `shards/NAME`.
fn rebuild(world: &World, name: &str, change: impl Fn(Clip) -> Option<Clip>) -> String {
    let store = |name: &str| {
        let folder = world.join("shards").join(name);
        Store::open(folder.to_str().unwrap()).unwrap()
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let dataset = Dataset::open(&store("ucsd-ped")).await.unwrap();
        let header = dataset.manifest().header.clone();
        let clips: Vec<Clip> = dataset.clips().try_collect().await.unwrap();
        let created = DatasetWriter::create(&store(name), header, Default::default()).await;
        let mut writer = created.unwrap();
        for clip in clips.into_iter().filter_map(&change) {
            writer.push(&clip).await.unwrap();
        }
        writer.finish().await.unwrap();
    });
    format!("shards/{name}")
}

fn without_masks(mut clip: Clip) -> Clip {
    clip.objects.clear();
    clip
}

fn is_first(clip: &Clip) -> bool {
    clip.video.ends_with("Test001")
}

fn report(world: &World, data: &str, more: &[&str]) -> Value {
    let args = ["eval", "--checkpoint", "run", "--data", data, "--json"];
    world.run(&[&args[..], more].concat()).json()
}

fn table(world: &World, data: &str) -> String {
    let args = ["eval", "--checkpoint", "run", "--data", data];
    world.run(&args).succeeded().stdout().to_owned()
}

#[test]
fn where_only_frames_are_labelled_there_are_frame_figures_and_no_pixel_figures() {
    let world = World::new();
    world.trained();
    let data = rebuild(&world, "frames-only", |clip| Some(without_masks(clip)));
    let whole = report(&world, "shards/ucsd-ped", &[]);
    let frames_only = report(&world, &data, &[]);
    for key in ["frame_auc", "frame_ap", "video_auc", "per_video"] {
        assert_eq!(frames_only[key], whole[key], "{key}");
    }
    assert_eq!(
        (&frames_only["pixel_videos"], &whole["pixel_videos"]),
        (&0.into(), &2.into())
    );
    assert!(whole["pixel_auc"].is_f64(), "{whole}");
    for key in ["pixel_auc", "target_vs_others_pixel_auc"] {
        assert!(frames_only[key].is_null(), "{key}: {frames_only}");
    }
    let said = table(&world, &data);
    assert!(
        said.contains("      –  pixel AUC (only frames are labelled)"),
        "{said}"
    );

    let control = report(&world, &data, &["--swap-control", "--interval", "2"]);
    assert!(control["swapped_frame_auc"].is_f64(), "{control}");
    let reference = [
        "--reference-windows",
        "--reference-metrics",
        "--n-frames",
        "2",
    ];
    let tails_dropped = report(&world, &data, &reference);
    assert_eq!(tails_dropped["frames"], 8);
    // Videos shorter than a window: nothing would be scored, and that is what is said.
    let args = ["eval", "--checkpoint", "run", "--data", &data];
    let more = ["--reference-windows", "--n-frames", "6", "--swap-control"];
    let ran = world.run(&[&args[..], &more].concat());
    ran.refused(2, &["--reference-windows", "at least 6 frames"]);
}

#[test]
fn pixel_figures_are_over_the_videos_with_masks_and_say_so() {
    let world = World::new();
    world.trained();
    let is_said = |data: &str, words: &str| {
        let said = table(&world, data);
        assert!(said.contains(words), "no {words:?} in: {said}");
    };
    let one = rebuild(&world, "one", |clip| is_first(&clip).then_some(clip));
    let mixed = rebuild(&world, "mixed", |clip| {
        Some(if is_first(&clip) {
            clip
        } else {
            without_masks(clip)
        })
    });
    for more in [
        &[][..],
        &["--reference-windows", "--n-frames", "2"],
        &["--swap-control"],
    ] {
        let (one, mixed) = (report(&world, &one, more), report(&world, &mixed, more));
        assert!(one["pixel_auc"].is_f64(), "{one}");
        for key in ["pixel_auc", "target_vs_others_pixel_auc", "pixel_videos"] {
            assert_eq!(one[key], mixed[key], "{key} with {more:?}");
        }
        assert_eq!((&one["videos"], &mixed["videos"]), (&1.into(), &2.into()));
    }
    is_said(&one, "pixel AUC\n");
    is_said(
        &mixed,
        "pixel AUC (over 1 of 2 videos: 1 with masks; of the others only frames are labelled)",
    );
    let beside_normal = rebuild(&world, "beside-normal", |mut clip| {
        if !is_first(&clip) {
            clip.objects.clear();
            clip.frame_labels = Some(vec![false; clip.frames.len()]);
        }
        Some(clip)
    });
    is_said(
        &beside_normal,
        "pixel AUC (over 2 of 2 videos: 1 with masks, 1 normal throughout)",
    );
}

#[test]
fn a_benchmark_of_one_label_or_one_frame_is_scored() {
    let world = World::new();
    world.trained();
    let labelled = |mut clip: Clip, label: bool| {
        clip.frame_labels = Some(vec![label; clip.frames.len()]);
        clip
    };
    for (name, change) in [
        (
            "normal",
            Box::new(|clip| labelled(without_masks(clip), false)) as Box<dyn Fn(Clip) -> Clip>,
        ),
        (
            "anomalous",
            Box::new(|clip| labelled(without_masks(clip), true)),
        ),
        (
            "anomalous-with-masks",
            Box::new(|clip| labelled(clip, true)),
        ),
        ("one-frame", Box::new(|clip: Clip| clip.select_frames(&[0]))),
        (
            "one-frame-without-masks",
            Box::new(|clip: Clip| without_masks(clip.select_frames(&[0]))),
        ),
        (
            "masks-of-others-only",
            Box::new(|mut clip: Clip| {
                clip.objects.retain(|object| object.anomalous != Some(true));
                clip
            }),
        ),
    ] {
        let data = rebuild(&world, name, |clip| Some(change(clip)));
        for more in [
            &[][..],
            &["--swap-control", "--interval", "3"],
            &["--reference-windows", "--n-frames", "1"],
        ] {
            let report = report(&world, &data, more);
            assert_eq!(report["videos"], 2, "{name}");
            let has_both = ["one-frame", "masks-of-others-only"]
                .iter()
                .any(|n| name.starts_with(n));
            assert!(
                has_both || report["frame_auc"].is_null(),
                "{name}: {report}"
            );
        }
        assert!(table(&world, &data).contains("pixel AUC"), "{name}");
    }
}

#[test]
fn the_swap_control_needs_an_absent_category_for_each_video() {
    let world = World::new();
    world.trained();
    let manifest = std::fs::read(world.join("shards/ucsd-ped/_manifest.json")).unwrap();
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    let truth = manifest["header"]["true_categories"].as_object().unwrap();
    let shown = truth.values().next().unwrap()[0].as_str().unwrap();
    let args = [
        "eval",
        "--checkpoint",
        "run",
        "--data",
        "shards/ucsd-ped",
        "--swap-control",
    ];
    let ran = world.run(&[&args[..], &["--categories", shown]].concat());
    ran.refused(2, &["--swap-control", "shows all that are asked for"]);
}
