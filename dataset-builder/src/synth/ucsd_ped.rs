//! Evaluation videos in the layout of UCSD Ped2, in colour, since colour is half of what this world's
//! categories say (the original is grey).
//!
//! ```text
//! ucsd-ped/categories.json                          {"categories": [all], "videos": {"Test001": [its own]}}
//! ucsd-ped/UCSDped2/Train/Train001/001.tif          normal videos
//! ucsd-ped/UCSDped2/Test/UCSDped2.m                 anomalous frames of each video, 1-based
//! ucsd-ped/UCSDped2/Test/Test001/001.tif
//! ucsd-ped/UCSDped2/Test/Test001_gt/001.bmp         255 where the target shows
//! ucsd-ped/UCSDped2/Test/Test001_objects/001.png    1, 2, … where the other objects show
//! ```
//!
//! `categories.json` and `_objects` are additions: what the videos' anomalies are called, and which
//! pixels a model must not take for the target.

use serde_json::{Map, Value, json};

use lavida_data::Result;

use super::evaluation::{EvaluationScene, EvaluationSet, evaluation_scene};
use super::output::{Folder, SetSummary};
use super::paint::Painted;
use super::{World, encode};

/// Writes the set about `set` into `root`; `stage` names its random streams.
pub(super) fn write(
    world: &World,
    set: &EvaluationSet,
    stage: &str,
    root: &Folder,
    tick: &mut dyn FnMut(usize),
) -> Result<SetSummary> {
    let settings = &world.settings;
    let n_frames = settings.evaluation_frames;
    let ped = root.child("UCSDped2")?;
    let (test, train) = (ped.child("Test")?, ped.child("Train")?);
    let n_anomalous = settings.evaluation_videos - settings.evaluation_normal_videos;

    let videos = world.in_parallel(settings.evaluation_videos, n_frames, tick, |idx| {
        let evaluation = draw(world, set, stage, idx, idx < n_anomalous);
        let mut summary = SetSummary {
            scenes: 1,
            frames: n_frames,
            ..SetSummary::default()
        };
        summary.objects = usize::from(evaluation.target.is_some());
        let name = format!("Test{:03}", idx + 1);
        let painted = world.paint_all(&evaluation.scene, stage, idx);
        write_frames(
            &test.child(&name)?,
            &painted,
            settings.frame_px,
            &mut summary,
        )?;
        write_truth(&test, &name, &evaluation, &painted, &mut summary)?;
        Ok((name, evaluation, summary))
    })?;

    let train_stage = format!("{stage}/train");
    let normal = world.in_parallel(settings.evaluation_training_videos, n_frames, tick, |idx| {
        let mut summary = SetSummary {
            scenes: 1,
            frames: n_frames,
            ..SetSummary::default()
        };
        let evaluation = draw(world, set, &train_stage, idx, false);
        let painted = world.paint_all(&evaluation.scene, &train_stage, idx);
        let folder = train.child(&format!("Train{:03}", idx + 1))?;
        write_frames(&folder, &painted, settings.frame_px, &mut summary)?;
        Ok(summary)
    })?;

    let mut summary = SetSummary::default();
    let mut categories_of_video: Map<String, Value> = Map::new();
    let mut intervals = String::from("TestVideoFile = {};\n");
    for (name, evaluation, video_summary) in videos {
        let own: Vec<String> = evaluation
            .target
            .iter()
            .map(|(target, _)| target.name())
            .collect();
        categories_of_video.insert(name, json!(own));
        intervals.push_str(&format!(
            "TestVideoFile{{end+1}}.gt_frame = [{}];\n",
            interval(&evaluation.anomalous)
        ));
        summary += video_summary;
    }
    normal
        .into_iter()
        .for_each(|video_summary| summary += video_summary);
    let categories: Vec<String> = set.targets.iter().map(|target| target.name()).collect();
    test.write("UCSDped2.m", intervals.as_bytes(), &mut summary)?;
    let sidecar = json!({"categories": categories, "videos": categories_of_video});
    root.write_json("categories.json", &sidecar, &mut summary)?;
    Ok(summary)
}

/// Video `idx` of the set; targets take turns.
pub(super) fn draw(
    world: &World,
    set: &EvaluationSet,
    stage: &str,
    idx: usize,
    with_target: bool,
) -> EvaluationScene {
    let about = set.targets[idx % set.targets.len()];
    evaluation_scene(
        &mut world.stream(stage, idx),
        &world.settings,
        set,
        about,
        with_target,
    )
}

fn write_frames(
    folder: &Folder,
    painted: &[Painted],
    side: u32,
    summary: &mut SetSummary,
) -> Result<()> {
    for (frame_idx, frame) in painted.iter().enumerate() {
        let tiff = encode::tiff(&frame.rgb, side)?;
        folder.write(&format!("{:03}.tif", frame_idx + 1), &tiff, summary)?;
    }
    Ok(())
}

fn write_truth(
    test: &Folder,
    name: &str,
    evaluation: &EvaluationScene,
    painted: &[Painted],
    summary: &mut SetSummary,
) -> Result<()> {
    let side = evaluation.scene.frame_px;
    let truth = test.child(&format!("{name}_gt"))?;
    let others = test.child(&format!("{name}_objects"))?;
    let target = evaluation.target.map(|(_, idx)| idx as u8 + 1);
    for (frame_idx, frame) in painted.iter().enumerate() {
        let mask: Vec<u8> = frame
            .index
            .iter()
            .map(|&index| u8::from(Some(index) == target))
            .collect();
        // Without the target, the others are numbered on from 1.
        let index: Vec<u8> = frame
            .index
            .iter()
            .map(|&index| match target {
                Some(target) if index == target => 0,
                Some(target) if index > target => index - 1,
                _ => index,
            })
            .collect();
        truth.write(
            &format!("{:03}.bmp", frame_idx + 1),
            &encode::bmp_mask(&mask, side)?,
            summary,
        )?;
        others.write(
            &format!("{:03}.png", frame_idx + 1),
            &encode::grey_png(&index, side)?,
            summary,
        )?;
    }
    Ok(())
}

/// `"9:20"`: the first and last anomalous frame, 1-based and inclusive; empty when there is none.
fn interval(anomalous: &[bool]) -> String {
    let first = anomalous.iter().position(|&anomalous| anomalous);
    let last = anomalous.iter().rposition(|&anomalous| anomalous);
    first
        .zip(last)
        .map(|(first, last)| format!("{}:{}", first + 1, last + 1))
        .unwrap_or_default()
}
