//! A bucket on loopback that can fail: as much of S3 as a run needs, over a folder.
//!
//! Objects are files, so a test looks at them without asking it. `PUT` (also with `If-None-Match: *`), uploads in parts, `GET`
//! (also of a range), `HEAD` and listing by prefix are served; whatever else is asked for is answered 501, so nothing is half right. It
//! knows no deletes and no versions, and lets everybody in; whose key asked is kept.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    hash::{DefaultHasher, Hash, Hasher},
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex},
};

const NAME: &str = "bucket";

/// How requests fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Answered 503, nothing done.
    Refuses,
    /// Done, and answered 503 the first time that the same is asked.
    Forgets,
    /// Not answered until the fault is mended; then the connection ends.
    Hangs,
}

/// A bucket that is served for as long as the test's process lives.
pub struct Bucket {
    address: SocketAddr,
    folder: PathBuf,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    faults: Mutex<Faults>,
    mended: Condvar,
    /// One write at a time: put-if-absent is looking and writing.
    writes: Mutex<u64>,
    uploads: Mutex<Uploads>,
    /// Ids of the keys that requests were signed with.
    signers: Mutex<BTreeSet<String>>,
}

/// Uploads that are neither complete nor given up; nobody who lists or reads the bucket sees them.
#[derive(Default)]
struct Uploads {
    n_begun: u64,
    by_id: BTreeMap<String, Upload>,
}

struct Upload {
    key: String,
    parts: BTreeMap<u32, Vec<u8>>,
}

#[derive(Default)]
struct Faults {
    now: Option<(Fault, String)>,
    n_failed: usize,
    forgotten: HashSet<String>,
}

impl Bucket {
    pub fn serve(folder: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State::default());
        let bucket = Self {
            address,
            folder: folder.to_owned(),
            state: state.clone(),
        };
        std::fs::create_dir_all(folder).unwrap();
        let folder = folder.to_owned();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, folder, state) = (stream.unwrap(), folder.clone(), state.clone());
                std::thread::spawn(move || serve(&stream, &folder, &state));
            }
        });
        bucket
    }

    /// A place in it as a program is told.
    pub fn uri(&self, name: &str) -> String {
        format!("s3://{NAME}/{name}")
    }

    /// That place on disk.
    pub fn folder(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// What a program's environment says of it.
    pub fn env(&self) -> Vec<(&'static str, String)> {
        vec![
            ("AWS_ENDPOINT", format!("http://{}", self.address)),
            ("AWS_ACCESS_KEY_ID", "anybody".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "nothing".to_owned()),
            ("AWS_REGION", "us-east-1".to_owned()),
            ("NO_PROXY", "127.0.0.1".to_owned()),
        ]
    }

    /// From now on requests fail whose key has these words.
    pub fn fails(&self, fault: Fault, words: &str) {
        let mut faults = self.state.faults.lock().unwrap();
        faults.now = Some((fault, words.to_owned()));
        faults.n_failed = 0;
    }

    /// Requests that failed since [`Self::fails`].
    pub fn n_failed(&self) -> usize {
        self.state.faults.lock().unwrap().n_failed
    }

    /// Keys of uploads that were begun and are neither complete nor given up, each with the parts it has.
    pub fn unfinished(&self) -> Vec<(String, Vec<u32>)> {
        let uploads = self.state.uploads.lock().unwrap();
        let all = uploads.by_id.values();
        all.map(|upload| (upload.key.clone(), upload.parts.keys().copied().collect()))
            .collect()
    }

    /// Ids of the keys that requests were signed with; of a temporary one, with its session's token.
    #[allow(dead_code, reason = "of cli/credentials.rs, which shares this file")]
    pub fn signers(&self) -> Vec<String> {
        let signers = self.state.signers.lock().unwrap();
        signers.iter().cloned().collect()
    }

    /// From now on nothing fails.
    pub fn mends(&self) {
        self.state.faults.lock().unwrap().now = None;
        self.state.mended.notify_all();
    }
}

struct Request {
    method: String,
    /// Key of an object, or empty for the bucket.
    key: String,
    query: String,
    is_new: bool,
    signer: Option<String>,
    /// First and last byte that are asked for.
    range: Option<(usize, usize)>,
    body: Vec<u8>,
}

struct Response {
    status: u16,
    /// Which bytes of how many, for an answer of status 206.
    range: Option<String>,
    body: Vec<u8>,
}

fn serve(stream: &TcpStream, folder: &Path, state: &State) {
    let mut reader = BufReader::new(stream);
    // A peer that goes away, in whatever state, ends its connection and nothing else.
    while let Some(request) = read(&mut reader) {
        state.signers.lock().unwrap().extend(request.signer.clone());
        let fault = failing(state, &request);
        if fault == Some(Fault::Hangs) {
            let faults = state.faults.lock().unwrap();
            let mended = state.mended.wait_while(faults, |f| f.now.is_some());
            drop(mended.unwrap());
            return;
        }
        let response = match fault {
            Some(Fault::Refuses) => Response::of(503, "SlowDown"),
            _ => answer(&request, folder, state),
        };
        let response = match fault {
            Some(Fault::Forgets) => Response::of(503, "SlowDown"),
            _ => response,
        };
        if write(stream, &request, &response).is_none() {
            return;
        }
    }
}

fn failing(state: &State, request: &Request) -> Option<Fault> {
    let mut faults = state.faults.lock().unwrap();
    let (fault, words) = faults.now.clone()?;
    let asked = format!("{} {}?{}", request.method, request.key, request.query);
    let fails = asked.contains(&words)
        && (fault != Fault::Forgets || faults.forgotten.insert(asked.clone()));
    faults.n_failed += usize::from(fails);
    fails.then_some(fault)
}

fn read(reader: &mut BufReader<&TcpStream>) -> Option<Request> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|&n| n > 0)?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next()?.to_owned(), words.next()?);
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let path = path.strip_prefix(&format!("/{NAME}"))?;
    let (key, query) = (plain(path.trim_start_matches('/')), query.to_owned());
    let (mut length, mut is_new, mut range) = (0, false, None);
    let (mut key_id, mut token) = (None, String::new());
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok().filter(|&n| n > 0)?;
        let Some((name, value)) = header.trim_end().split_once(':') else {
            break;
        };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse().ok()?,
            "range" => {
                let (first, last) = value.trim().strip_prefix("bytes=")?.split_once('-')?;
                range = Some((first.parse().ok()?, last.parse().ok()?));
            }
            "authorization" => {
                let (_, credential) = value.split_once("Credential=")?;
                key_id = Some(credential.split('/').next()?.to_owned());
            }
            "x-amz-security-token" => token = format!(" {}", value.trim()),
            "if-none-match" => is_new = value.trim() == "*",
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Request {
        method,
        key,
        query,
        is_new,
        signer: key_id.map(|id| id + &token),
        range,
        body,
    })
}

fn write(mut stream: &TcpStream, request: &Request, response: &Response) -> Option<()> {
    let mut hasher = DefaultHasher::new();
    response.body.hash(&mut hasher);
    request.body.hash(&mut hasher);
    let (status, length, tag) = (response.status, response.body.len(), hasher.finish());
    let range = response.range.iter();
    let range: String = range
        .map(|range| format!("Content-Range: {range}\r\n"))
        .collect();
    let head = format!(
        "HTTP/1.1 {status} -\r\nContent-Length: {length}\r\n{range}ETag: \"{tag:x}\"\r\n\r\n"
    );
    let mut bytes = head.into_bytes();
    if request.method != "HEAD" {
        bytes.extend(&response.body);
    }
    stream.write_all(&bytes).ok()
}

impl Response {
    fn of(status: u16, body: impl Into<Vec<u8>>) -> Self {
        let body = body.into();
        let range = None;
        Self {
            status,
            range,
            body,
        }
    }

    /// A whole object, or the bytes of it that are asked for.
    fn of_object(bytes: Vec<u8>, range: Option<(usize, usize)>) -> Self {
        let Some((first, last)) = range else {
            return Self::of(200, bytes);
        };
        let last = last.min(bytes.len().saturating_sub(1));
        match bytes.get(first..=last) {
            Some(asked) => Self {
                range: Some(format!("bytes {first}-{last}/{}", bytes.len())),
                ..Self::of(206, asked)
            },
            None => Self::of(416, "InvalidRange"),
        }
    }
}

fn answer(request: &Request, folder: &Path, state: &State) -> Response {
    let file = folder.join(&request.key);
    let query = |name: &str| {
        let mut pairs = request
            .query
            .split('&')
            .filter_map(|pair| pair.split_once('='));
        pairs
            .find(|(key, _)| *key == name)
            .map(|(_, value)| plain(value))
    };
    match (request.method.as_str(), request.key.is_empty()) {
        ("GET", true) if query("list-type").is_some() => {
            let prefix = query("prefix").unwrap_or_default();
            Response::of(200, list(folder, &prefix, query("delimiter").as_deref()))
        }
        ("GET" | "HEAD", false) => match std::fs::read(&file) {
            Ok(bytes) => Response::of_object(bytes, request.range),
            Err(_) => Response::of(404, ""),
        },
        ("PUT", false) if request.query.is_empty() => {
            let mut n_writes = state.writes.lock().unwrap();
            if request.is_new && file.exists() {
                return Response::of(412, "");
            }
            store(&file, folder, &mut n_writes, &request.body);
            Response::of(200, "")
        }
        ("POST", false) if query("uploads").is_some() => {
            let mut uploads = state.uploads.lock().unwrap();
            uploads.n_begun += 1;
            let id = uploads.n_begun.to_string();
            let body = format!(
                "<InitiateMultipartUploadResult><UploadId>{id}</UploadId></InitiateMultipartUploadResult>"
            );
            let (key, parts) = (request.key.clone(), BTreeMap::new());
            uploads.by_id.insert(id, Upload { key, parts });
            Response::of(200, body)
        }
        (method @ ("PUT" | "POST" | "DELETE"), false) if query("uploadId").is_some() => {
            let mut uploads = state.uploads.lock().unwrap();
            let id = query("uploadId").unwrap_or_default();
            let of_this = |upload: &&mut Upload| upload.key == request.key;
            let Some(upload) = uploads.by_id.get_mut(&id).filter(of_this) else {
                return Response::of(404, "<Error><Code>NoSuchUpload</Code></Error>");
            };
            if method == "PUT" {
                let number = query("partNumber").and_then(|number| number.parse().ok());
                let Some(number) = number else {
                    return Response::of(400, "<Error><Code>InvalidArgument</Code></Error>");
                };
                upload.parts.insert(number, request.body.clone());
                return Response::of(200, "");
            }
            let upload = uploads.by_id.remove(&id);
            if let ("POST", Some(upload)) = (method, upload) {
                let whole: Vec<u8> = upload.parts.into_values().flatten().collect();
                store(&file, folder, &mut state.writes.lock().unwrap(), &whole);
                let body = "<CompleteMultipartUploadResult><ETag>\"0\"</ETag></CompleteMultipartUploadResult>";
                return Response::of(200, body);
            }
            Response::of(204, "")
        }
        _ => Response::of(501, "NotImplemented"),
    }
}

fn store(file: &Path, folder: &Path, n_writes: &mut u64, bytes: &[u8]) {
    *n_writes += 1;
    // Beside the bucket first: whoever looks sees a whole object or none.
    let aside = folder.with_extension(format!("{n_writes}"));
    std::fs::write(&aside, bytes).unwrap();
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::rename(&aside, file).unwrap();
}

/// The first page of a listing, which has to be all of it.
fn list(folder: &Path, prefix: &str, delimiter: Option<&str>) -> String {
    let mut keys = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(inside) = folders.pop() {
        for entry in std::fs::read_dir(inside).into_iter().flatten().flatten() {
            let Ok(about) = entry.metadata() else {
                continue; // replaced while we look
            };
            if about.is_dir() {
                folders.push(entry.path())
            } else {
                keys.push((entry.path(), about.len()))
            }
        }
    }
    let keys = keys.iter().filter_map(|(path, size)| {
        let key = path.strip_prefix(folder).ok()?.to_str()?;
        key.starts_with(prefix).then_some((key, size))
    });
    let mut keys: Vec<_> = keys.collect();
    keys.sort();
    assert!(keys.len() < 1000, "a listing of several pages");
    let mut folders = BTreeSet::new();
    if let Some(delimiter) = delimiter {
        keys.retain(|(key, _)| match key[prefix.len()..].split_once(delimiter) {
            Some((folder, _)) => {
                folders.insert(format!("{prefix}{folder}{delimiter}"));
                false
            }
            None => true,
        });
    }
    let folders = folders
        .iter()
        .map(|folder| format!("<CommonPrefixes><Prefix>{folder}</Prefix></CommonPrefixes>"));
    let folders: String = folders.collect();
    let contents = keys.iter().map(|(key, size)| {
        format!(
            "<Contents><Key>{key}</Key><LastModified>2026-01-01T00:00:00Z</LastModified>\
             <ETag>\"0\"</ETag><Size>{size}</Size></Contents>"
        )
    });
    let contents: String = contents.collect();
    format!(
        "<ListBucketResult><IsTruncated>false</IsTruncated>{contents}{folders}</ListBucketResult>"
    )
}

/// Text without its percent escapes.
fn plain(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, others @ ..] = rest {
        let escaped = match (first, others) {
            (b'%', [high, low, ..]) => {
                let digits = [*high, *low];
                let digits = std::str::from_utf8(&digits).ok();
                digits.and_then(|digits| u8::from_str_radix(digits, 16).ok())
            }
            _ => None,
        };
        bytes.push(escaped.unwrap_or(*first));
        rest = &others[if escaped.is_some() { 2 } else { 0 }..];
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
