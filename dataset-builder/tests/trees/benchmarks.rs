//! Benchmarks as they are published, with a few frames each.

use std::path::Path;

use super::more_videos::{VIDEO, frames};
use super::pictures::{HEIGHT, WIDTH, gray_png, rectangle};
use super::write;

/// A scene with an abnormal video as frames and a normal one as a file.
pub fn ubnormal(root: &Path) {
    let name = "abnormal_scene_1_scenario_1";
    frames(root, &format!("Scene1/{name}"), 12, 0);
    for i in 0..12 {
        let mut map = rectangle(1, [0, 4, 0, 4]);
        map[500..510].fill(2);
        write(
            root,
            &format!("Scene1/{name}_annotations/{name}_{i:04}_gt.png"),
            gray_png(&map),
        );
    }
    let tracks = format!("Scene1/{name}_annotations/{name}_tracks.txt");
    write(root, &tracks, "1,3.0,6.0\n2,100.0,120.0\n");
    write(root, "Scene1/normal_scene_1_scenario_2_fog.mp4", VIDEO);
    write(root, "abnormal_test_video_names.txt", format!("{name}\n"));
    write(
        root,
        "normal_test_video_names.txt",
        "normal_scene_1_scenario_2_fog\n",
    );
}

/// A robbery as frames and a normal video as a file.
pub fn ucf_crime(root: &Path) {
    frames(root, "Anomaly-Videos-Part-3/Robbery/Robbery048_x264", 12, 0);
    write(
        root,
        "Testing_Normal_Videos_Anomaly/Normal_Videos_003_x264.mp4",
        VIDEO,
    );
    let lines = "Robbery048_x264.mp4  Robbery  2  5  8  9  \nNormal_Videos_003_x264.mp4  Normal  -1  -1  -1  -1  \n";
    write(
        root,
        "Temporal_Anomaly_Annotation_for_Testing_Videos.txt",
        lines,
    );
}

/// A riot as frames, a normal video and an explosion as files.
pub fn xd_violence(root: &Path) {
    frames(
        root,
        "XD-Violence-test/videos/Bad.Boys__#00-01_label_B4-B2-0",
        12,
        0,
    );
    write(root, "XD-Violence-test/videos/v=x__#1_label_A.mp4", VIDEO);
    write(
        root,
        "XD-Violence-test/videos/v=y__#1_label_G-0-0.mp4",
        VIDEO,
    );
    write(
        root,
        "XD-Violence-test/annotations.txt",
        "Bad.Boys__#00-01_label_B4-B2-0.mp4 1 2 7 9\nv=y__#1_label_G-0-0.mp4 3 8\n",
    );
}

/// Two videos as frames, and cells of masks.
pub fn avenue(root: &Path) {
    for (number, shade) in [(1, 0), (2, 40)] {
        frames(root, &format!("testing_videos/{number:02}"), 10, shade);
        let masks: Vec<Vec<u8>> = (0..10)
            .map(|i| rectangle(u8::from(i > 6), [0, 4, 0, 4]))
            .collect();
        write(
            root,
            &format!("ground_truth_demo/testing_label_mask/{number}_label.mat"),
            mat(&masks),
        );
    }
}

/// `save -v6` of a cell array of masks: an element is type, length and data, padded to eight bytes.
fn mat(masks: &[Vec<u8>]) -> Vec<u8> {
    fn element(kind: u32, data: &[u8]) -> Vec<u8> {
        let padding = vec![0; (8 - data.len() % 8) % 8];
        [
            &kind.to_le_bytes()[..],
            &(data.len() as u32).to_le_bytes(),
            data,
            &padding,
        ]
        .concat()
    }
    let matrix = |class: u8, [n_rows, n_columns]: [u32; 2], name: &[u8], rest: &[u8]| {
        let flags = element(6, &[class, 0, 0, 0, 0, 0, 0, 0]);
        let sizes = [n_rows.to_le_bytes(), n_columns.to_le_bytes()].concat();
        element(
            14,
            &[&flags[..], &element(5, &sizes), &element(1, name), rest].concat(),
        )
    };
    let cell = |mask: &Vec<u8>| {
        let columns: Vec<u8> = (0..WIDTH * HEIGHT)
            .map(|i| mask[(i % HEIGHT * WIDTH + i / HEIGHT) as usize])
            .collect();
        matrix(9, [HEIGHT, WIDTH], b"", &element(2, &columns))
    };
    let cells: Vec<u8> = masks.iter().flat_map(cell).collect();
    let mut bytes = b"MATLAB 5.0 MAT-file, Platform: GLNXA64".to_vec();
    bytes.resize(124, b' ');
    bytes.extend([0, 1, b'I', b'M']);
    bytes.extend(matrix(1, [1, masks.len() as u32], b"volLabel", &cells));
    bytes
}
