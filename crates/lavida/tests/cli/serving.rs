//! `lavida serve`: scores that are those of `predict`, answers that begin before the upload ends, refusals, and an end in order.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use serde_json::{Value, json};

use crate::{process::Process, support::World};

const CATEGORIES: &str = "red circle, green square";
const MP4: &[u8] = include_bytes!("../../../lavida-data/tests/fixtures/moving_square.mp4");
/// Frames of it.
const MP4_FRAMES: usize = 24;
const LONGEST: Duration = Duration::from_secs(120);

/// A service of a run of two steps.
struct Served {
    process: Process,
    address: String,
}

impl Served {
    fn start(world: &World, more: &[&str]) -> Self {
        let run = world.trained();
        let args = ["serve", "--checkpoint", run, "--listen", "127.0.0.1:0"];
        let mut process = Process::start(world.lavida(&[&args[..], more].concat()));
        let at = process.tells("serve: at http");
        let address = at.split("://").nth(1).unwrap().split('/').next().unwrap();
        Self {
            address: address.to_owned(),
            process,
        }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(LONGEST)).unwrap();
        stream
    }

    /// Asks in HTTP/1.0: the answer ends with its connection.
    fn ask(&self, head: &str, body: &[u8]) -> Answer {
        let mut stream = self.connect();
        let head = head.replace('\n', "\r\n");
        write!(stream, "{head}\r\nContent-Length: {}\r\n\r\n", body.len()).unwrap();
        let _ = stream.write_all(body); // a refusal may come before its end
        Answer::read(stream)
    }

    fn get(&self, path: &str) -> Answer {
        self.ask(&format!("GET {path} HTTP/1.0"), b"")
    }

    fn score(&self, query: &str, body: &[u8]) -> Answer {
        let query = query.replace(' ', "%20");
        self.ask(
            &format!("POST /v1/score?{query} HTTP/1.0\nContent-Type: video/mp4"),
            body,
        )
    }

    /// A figure of `/metrics`.
    fn figure(&self, name: &str) -> f64 {
        let text = self.get("/metrics").text();
        let line = text.lines().find(|line| line.starts_with(name));
        let line = line.unwrap_or_else(|| panic!("no {name} in {text}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }
}

struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn read(mut stream: TcpStream) -> Self {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        Self::of(&all)
    }

    fn of(all: &[u8]) -> Self {
        let end = all.windows(4).position(|four| four == b"\r\n\r\n");
        let end = end.unwrap_or_else(|| panic!("no head in {}", String::from_utf8_lossy(all)));
        let head = String::from_utf8(all[..end].to_vec()).unwrap();
        Self {
            status: head.split(' ').nth(1).unwrap().parse().unwrap(),
            head: head.to_lowercase(),
            body: all[end + 4..].to_vec(),
        }
    }

    fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    #[track_caller]
    fn json(&self) -> Value {
        assert_eq!(self.status, 200, "{}", self.text());
        serde_json::from_slice(&self.body).unwrap()
    }

    #[track_caller]
    fn refused(&self, status: u16, kind: &str, words: &str) {
        let text = self.text();
        assert_eq!(self.status, status, "{text}");
        assert!(
            self.head.contains("application/problem+json"),
            "{}",
            self.head
        );
        let problem: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            problem["type"],
            format!("urn:lavida:problem:{kind}"),
            "{text}"
        );
        assert_eq!(problem["status"], status);
        assert!(
            problem["detail"].as_str().unwrap().contains(words),
            "{text}"
        );
        assert_eq!(problem["error"], problem["detail"]);
    }
}

fn predicted(world: &World, categories: &str, out: &str) -> Vec<Value> {
    std::fs::write(world.join("clip.mp4"), MP4).unwrap();
    let run = "run";
    let args = [
        "predict",
        "--checkpoint",
        run,
        "--video",
        "clip.mp4",
        "--out",
        out,
    ];
    let args = [&args[..], &["--categories", categories, "--pictures", "0"]].concat();
    world.run(&args).succeeded();
    let scores = std::fs::read(world.join(out).join("scores.json")).unwrap();
    let scores: Value = serde_json::from_slice(&scores).unwrap();
    let frames = scores["frames"].as_array().unwrap();
    frames.iter().map(|frame| frame["score"].clone()).collect()
}

fn scores(frames: &Value) -> Vec<Value> {
    let frames = frames.as_array().unwrap();
    frames.iter().map(|frame| frame["score"].clone()).collect()
}

#[test]
fn served_scores_have_the_bits_of_predict_whatever_else_is_scored() {
    let world = World::new();
    let served = Served::start(&world, &[]);
    let asked = [
        CATEGORIES,
        "a very long description of something that is not to be seen in this video",
        "blue cross",
        "red circle, green square, blue cross, white ring",
    ];
    let answers = std::thread::scope(|scope| {
        let clients: Vec<_> = asked
            .iter()
            .map(|categories| {
                let served = &served;
                scope.spawn(move || {
                    served
                        .score(&format!("categories={categories}"), MP4)
                        .json()
                })
            })
            .collect();
        clients
            .into_iter()
            .map(|client| client.join().unwrap())
            .collect::<Vec<_>>()
    });
    for (i, (categories, answer)) in asked.iter().zip(&answers).enumerate() {
        let expected = predicted(&world, categories, &format!("scored-{i}"));
        assert_eq!(expected.len(), MP4_FRAMES);
        assert_eq!(scores(&answer["frames"]), expected, "{categories}");
    }
    assert_eq!(answers[0]["model"], "lavida");
    assert_eq!(answers[0]["step"], 2);
    assert_eq!(answers[0]["n_frames"], MP4_FRAMES);
    assert_eq!(
        answers[0]["categories"],
        json!(["red circle", "green square"])
    );
    let scored = served.figure("lavida_serve_frames_total");
    assert_eq!(scored, (asked.len() * MP4_FRAMES) as f64);
    assert_eq!(served.figure("lavida_serve_requests_in_flight"), 0.0);
}

#[test]
fn categories_and_masks_come_where_they_are_asked_for() {
    let world = World::new();
    let served = Served::start(&world, &[]);
    let query = format!("categories={CATEGORIES}&per_category=true&masks=true&interval=4");
    let answer = served.score(&query, MP4).json();
    let frame = &answer["frames"][5];
    assert_eq!(frame["mask"]["size"], json!([64, 96]));
    assert!(frame["mask"]["counts"].is_string());
    for category in ["red circle", "green square"] {
        let alone = served
            .score(&format!("categories={category}&interval=4"), MP4)
            .json();
        assert_eq!(frame["categories"][category], alone["frames"][5]["score"]);
    }
    let score = frame["score"].as_f64().unwrap();
    let probability = frame["probability"].as_f64().unwrap();
    assert!((probability - 1.0 / (1.0 + (-score).exp())).abs() < 1e-12);

    // The same video as a form.
    let form = format!(
        "--x\r\nContent-Disposition: form-data; name=\"categories\"\r\n\r\n{CATEGORIES}\r\n--x\r\n\
         Content-Disposition: form-data; name=\"interval\"\r\n\r\n4\r\n--x\r\n\
         Content-Disposition: form-data; name=\"video\"; filename=\"a.mp4\"\r\n\r\n"
    );
    let form = [form.as_bytes(), MP4, b"\r\n--x--\r\n"].concat();
    let head = "POST /v1/score HTTP/1.0\nContent-Type: multipart/form-data; boundary=x";
    let by_form = served.ask(head, &form).json();
    assert_eq!(scores(&by_form["frames"]), scores(&answer["frames"]));
}

/// The same video with its description before its frames.
fn description_first() -> Vec<u8> {
    let at = |name: &[u8]| MP4.windows(4).position(|four| four == name).unwrap();
    let (mdat, moov) = (at(b"mdat") - 4, at(b"moov") - 4);
    let mut description = MP4[moov..].to_vec();
    let moved = description.len() as u32;
    let table = description
        .windows(4)
        .position(|four| four == b"stco")
        .unwrap()
        + 8;
    let number = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().unwrap());
    let n = number(&description[table..table + 4]) as usize;
    for entry in description[table + 4..][..4 * n].chunks_exact_mut(4) {
        let offset = number(entry) + moved;
        entry.copy_from_slice(&offset.to_be_bytes());
    }
    [&MP4[..mdat], &description, &MP4[mdat..moov]].concat()
}

#[test]
fn an_answer_begins_while_the_video_is_still_sent() {
    let world = World::new();
    let served = Served::start(&world, &[]);
    let video = description_first();
    let expected = scores(
        &served
            .score(&format!("categories={CATEGORIES}"), &video)
            .json()["frames"],
    );
    let mut stream = served.connect();
    let query = CATEGORIES.replace(' ', "%20");
    write!(
        stream,
        "POST /v1/score?categories={query} HTTP/1.0\r\nAccept: application/x-ndjson\r\nContent-Length: {}\r\n\r\n",
        video.len()
    )
    .unwrap();
    let held_back = video.len() - 60;
    stream.write_all(&video[..held_back]).unwrap();
    let mut all = Vec::new();
    let mut part = [0; 4096];
    while !String::from_utf8_lossy(&all).contains("\"frame\":1,") {
        let n = stream.read(&mut part).unwrap();
        assert!(n > 0, "{}", String::from_utf8_lossy(&all));
        all.extend_from_slice(&part[..n]);
    }
    assert!(!String::from_utf8_lossy(&all).contains("\"end\""));
    stream.write_all(&video[held_back..]).unwrap();
    stream.read_to_end(&mut all).unwrap();
    let answer = Answer::of(&all);
    assert_eq!(answer.status, 200);
    let lines: Vec<Value> = answer
        .text()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines[0]["video"]["n_frames"], MP4_FRAMES);
    assert_eq!(lines.last().unwrap()["end"]["n_frames"], MP4_FRAMES);
    let found: Vec<Value> = lines[1..lines.len() - 1]
        .iter()
        .map(|line| line["score"].clone())
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn what_cannot_be_scored_is_refused_in_words_and_counted_and_the_service_goes_on() {
    let world = World::new();
    let served = Served::start(&world, &["--max-upload", "1", "--max-idle", "1"]);
    let asked = format!("categories={}", CATEGORIES.replace(' ', "%20"));
    let head = |kind: &str| format!("POST /v1/score?{asked} HTTP/1.0\nContent-Type: {kind}");
    let mp4 = head("video/mp4");

    served
        .ask(&mp4, b"")
        .refused(400, "bad_request", "found nothing");
    served
        .ask(&mp4, b"no video")
        .refused(422, "bad_video", "an mp4 file");
    served
        .ask(&mp4, &MP4[..MP4.len() - 9])
        .refused(422, "bad_video", "a whole mp4");
    let mut damaged = MP4.to_vec();
    damaged[200..400].fill(0xff);
    served
        .ask(&mp4, &damaged)
        .refused(422, "bad_video", "video");
    let json = head("application/json");
    served.ask(&json, b"{\"video\": \"/etc/passwd\"}").refused(
        415,
        "unsupported_media",
        "video/mp4",
    );
    let gzip = format!("{mp4}\nContent-Encoding: gzip");
    served
        .ask(&gzip, MP4)
        .refused(415, "unsupported_media", "gzip");
    let large = vec![0; (1 << 20) + 1];
    served
        .ask(&mp4, &large)
        .refused(413, "too_large", "at most 1048576, found 1048577");

    served
        .score("", MP4)
        .refused(400, "bad_request", "at least one category");
    served
        .score("categories=a&interval=0", MP4)
        .refused(400, "bad_request", "interval");
    served
        .score("categories=a&colour=red", MP4)
        .refused(400, "bad_request", "colour");
    served
        .score("categories=a%0Ab", MP4)
        .refused(400, "bad_request", "control characters");
    served
        .score("categories=%3CSEG%3E", MP4)
        .refused(400, "bad_request", "special tokens");
    let many = (0..1000)
        .map(|i| i.to_string())
        .collect::<Vec<_>>()
        .join(",");
    served.score(&format!("categories={many}"), MP4).refused(
        413,
        "too_large",
        "at most 64, found 1000",
    );
    served.score("categories=a&model=other", MP4).refused(
        404,
        "not_found",
        "one of lavida, found other",
    );
    served.get("/nothing").refused(404, "not_found", "/nothing");
    served
        .get("/v1/score")
        .refused(405, "method_not_allowed", "takes no GET");

    // A body that stops, and one that pauses for longer than it may.
    let mut stream = served.connect();
    write!(
        stream,
        "POST /v1/score?{asked} HTTP/1.0\r\nContent-Length: 5000\r\n\r\nonly this"
    )
    .unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    drop(stream);
    let mut stream = served.connect();
    write!(
        stream,
        "POST /v1/score?{asked} HTTP/1.0\r\nContent-Length: 5000\r\n\r\n"
    )
    .unwrap();
    stream.write_all(&MP4[..24]).unwrap();
    Answer::read(stream).refused(408, "timeout", "nothing came for 1 s");

    let answer = served.score(&asked, MP4).json();
    assert_eq!(answer["frames"].as_array().unwrap().len(), MP4_FRAMES);
    for (kind, n) in [
        ("bad_video", 3.0),
        ("unsupported_media", 2.0),
        ("timeout", 1.0),
    ] {
        let figure = format!("lavida_serve_problems_total{{kind=\"{kind}\"}}");
        assert_eq!(served.figure(&figure), n, "{kind}");
    }
}

#[test]
fn one_more_than_may_be_is_told_when_to_come_again_and_health_is_answered() {
    let world = World::new();
    let served = Served::start(&world, &["--max-requests", "1"]);
    let mut slow = served.connect();
    write!(
        slow,
        "POST /v1/score?categories=a HTTP/1.0\r\nContent-Length: {}\r\n\r\n",
        MP4.len()
    )
    .unwrap();
    slow.write_all(&MP4[..100]).unwrap();
    crate::process::until("the first is let in", || {
        (served.figure("lavida_serve_requests_in_flight") == 1.0).then_some(())
    });
    let answer = served.score("categories=a", MP4);
    answer.refused(503, "overloaded", "1 requests are being scored");
    assert!(answer.head.contains("retry-after: "), "{}", answer.head);
    assert_eq!(served.get("/v2/health/ready").status, 200);
    slow.write_all(&MP4[100..]).unwrap();
    let answer = Answer::read(slow).json();
    assert_eq!(answer["frames"].as_array().unwrap().len(), MP4_FRAMES);
    assert_eq!(served.score("categories=a", MP4).status, 200);
}

#[test]
fn whoever_is_under_way_is_answered_before_the_service_ends() {
    let world = World::new();
    let mut served = Served::start(&world, &[]);
    let mut slow = served.connect();
    write!(
        slow,
        "POST /v1/score?categories=a HTTP/1.0\r\nContent-Length: {}\r\n\r\n",
        MP4.len()
    )
    .unwrap();
    slow.write_all(&MP4[..100]).unwrap();
    crate::process::until("it is let in", || {
        (served.figure("lavida_serve_requests_in_flight") == 1.0).then_some(())
    });
    served.process.terminate();
    served.process.says("requests under way are answered first");
    slow.write_all(&MP4[100..]).unwrap();
    let answer = Answer::read(slow).json();
    assert_eq!(answer["frames"].as_array().unwrap().len(), MP4_FRAMES);
    served.process.says("serve: every request was answered");
    served.process.ends_with(0);
    assert!(TcpStream::connect(&served.address).is_err());
}

#[test]
fn the_open_inference_protocol_gives_the_same_scores_in_json_and_in_binary() {
    let world = World::new();
    let served = Served::start(&world, &[]);
    let metadata = served.get("/v2/models/lavida").json();
    assert_eq!(metadata["versions"], json!(["2"]));
    let names = |key: &str| {
        let tensors = metadata[key].as_array().unwrap().iter();
        tensors
            .map(|tensor| tensor["name"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(names("inputs"), ["frames", "video", "categories"]);
    assert_eq!(
        names("outputs"),
        ["scores", "probabilities", "category_scores", "mask_logits"]
    );
    assert_eq!(
        served.get("/v2").json()["extensions"][0],
        "binary_tensor_data"
    );
    assert_eq!(served.get("/v2/health/live").status, 200);
    assert_eq!(served.get("/v2/models/lavida/versions/2/ready").status, 200);
    served.get("/v2/models/lavida/versions/3").refused(
        404,
        "not_found",
        "expected version 2, found 3",
    );

    // The mp4 itself, as binary data.
    let document = json!({
        "id": "7",
        "inputs": [
            { "name": "video", "shape": [1], "datatype": "BYTES", "parameters": { "binary_data_size": MP4.len() + 4 } },
            { "name": "categories", "shape": [2], "datatype": "BYTES", "data": ["red circle", "green square"] },
        ],
        "outputs": [{ "name": "scores", "parameters": { "binary_data": true } }],
    })
    .to_string();
    let infer = |document: &str, binary: &[u8]| {
        let head = format!(
            "POST /v2/models/lavida/infer HTTP/1.0\nInference-Header-Content-Length: {}",
            document.len()
        );
        served.ask(&head, &[document.as_bytes(), binary].concat())
    };
    let binary = [&(MP4.len() as u32).to_le_bytes()[..], MP4].concat();
    let answer = infer(&document, &binary);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let n = answer
        .head
        .split("inference-header-content-length: ")
        .nth(1)
        .unwrap();
    let n: usize = n.lines().next().unwrap().trim().parse().unwrap();
    let head: Value = serde_json::from_slice(&answer.body[..n]).unwrap();
    assert_eq!(
        (&head["id"], &head["model_version"]),
        (&json!("7"), &json!("2"))
    );
    assert_eq!(head["outputs"][0]["shape"], json!([MP4_FRAMES]));
    let found: Vec<f64> = answer.body[n..]
        .chunks_exact(4)
        .map(|four| f64::from(f32::from_le_bytes(four.try_into().unwrap())))
        .collect();
    let expected = served
        .score(&format!("categories={CATEGORIES}"), MP4)
        .json();
    let expected: Vec<f64> = scores(&expected["frames"])
        .iter()
        .map(|s| s.as_f64().unwrap())
        .collect();
    assert_eq!(found, expected);

    // Frames, all in JSON, and all outputs.
    let frames: Vec<u8> = (0..3 * 8 * 8 * 3).map(|i| (i % 251) as u8).collect();
    let request = |shape: Value, output: &str| {
        json!({
            "inputs": [
                { "name": "frames", "shape": shape, "datatype": "UINT8", "data": frames },
                { "name": "categories", "shape": [1], "datatype": "BYTES", "data": ["dog"] },
            ],
            "outputs": [{ "name": "scores" }, { "name": output }],
        })
        .to_string()
    };
    let answer = infer(&request(json!([3, 8, 8, 3]), "category_scores"), b"").json();
    assert_eq!(answer["outputs"][1]["shape"], json!([3, 1]));
    assert_eq!(
        answer["outputs"][0]["data"], answer["outputs"][1]["data"],
        "one category is all of them"
    );
    let masks = infer(&request(json!([3, 8, 8, 3]), "mask_logits"), b"").json();
    let side = masks["outputs"][1]["shape"][1].as_u64().unwrap() as usize;
    assert_eq!(
        masks["outputs"][1]["data"].as_array().unwrap().len(),
        3 * side * side
    );

    let wrong = infer(&request(json!([3, 8, 8, 4]), "scores"), b"");
    wrong.refused(400, "bad_request", "as its shape");
    infer(&request(json!([3, 8, 8, 3]), "colours"), b"").refused(400, "bad_request", "colours");
    infer("{", b"").refused(400, "bad_request", "an inference request");
    let path = json!({
        "inputs": [
            { "name": "video", "shape": [1], "datatype": "BYTES", "data": ["/etc/passwd"] },
            { "name": "categories", "shape": [1], "datatype": "BYTES", "data": ["dog"] },
        ],
    });
    infer(&path.to_string(), b"").refused(400, "bad_request", "paths of the server's machine");
}

#[test]
fn others_are_reached_with_a_certificate_and_a_token_only() {
    let world = World::new();
    let run = world.trained();
    let args = |more: &[&'static str]| [&["serve", "--checkpoint", run][..], more].concat();
    world
        .run(&args(&["--listen", "0.0.0.0:0"]))
        .refused(2, &["--listen", "--tls-cert", "--token-file"]);
    world
        .run(&args(&["--token-file", "none"]))
        .refused(2, &["none", "a file with a token"]);
    world
        .run(&args(&["--checkpoint", run]))
        .refused(2, &["--checkpoint", "two called lavida"]);
    world
        .run(&args(&["--max-requests", "0"]))
        .refused(2, &["--max-requests"]);

    std::fs::write(world.join("token"), "secret\n").unwrap();
    let served = Served::start(&world, &["--token-file", "token"]);
    served
        .get("/metrics")
        .refused(401, "unauthorized", "expected `Bearer TOKEN`");
    served
        .score("categories=a", MP4)
        .refused(401, "unauthorized", "found none");
    let with = |token: &str| {
        served.ask(
            &format!("GET /v2 HTTP/1.0\nAuthorization: Bearer {token}"),
            b"",
        )
    };
    with("other").refused(401, "unauthorized", "another");
    assert_eq!(with("secret").status, 200);
    assert_eq!(served.get("/v2/health/live").status, 200);
    assert_eq!(served.get("/").status, 200);
}
