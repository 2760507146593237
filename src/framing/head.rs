//! The head of a request: where it ends, whether it can be read in one way only, and what follows it.

use std::fmt;

use super::field::{self, PATH, QUERY, TOKEN};

/// How large a head may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadLimits {
    /// Bytes from the request line to the blank line, both included: 431 above.
    pub bytes: usize,
    /// Bytes of the request target: 414 above.
    pub target: usize,
    /// Bytes of the method: 501 above.
    pub method: usize,
    /// Header fields: 431 above.
    pub fields: usize,
}

impl Default for HeadLimits {
    fn default() -> Self {
        Self {
            bytes: 32 * 1024,
            target: 8192,
            method: 32,
            fields: 100,
        }
    }
}

/// What a head says about the message, and where its parts lie in the inspected bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Bytes of the head; the body or the next message starts here.
    pub length: usize,
    /// Where the request line starts: 2 when an empty line stood before it, which is not to be handed on, else 0.
    pub start: usize,
    /// The method.
    pub method: Span,
    /// The whole request target as written.
    pub target: Span,
    /// Path and query: the target itself, or what follows the authority of an absolute one, or `*`.
    pub path: Span,
    /// Whether the target was written as `http://host/path`; its host is the `Host` field's.
    pub absolute: bool,
    /// The value of the one `Host` field.
    pub host: Span,
    /// Number of header fields.
    pub fields: usize,
    /// What follows the head.
    pub body: Body,
    /// Whether this is HTTP/1.0.
    pub http10: bool,
    /// Whether the client waits for `100 Continue`. Never on HTTP/1.0, where it has no meaning.
    pub expect_continue: bool,
    /// Whether there is an `Upgrade` field on HTTP/1.1. It need not be named in `Connection`: the engine takes it for
    /// an upgrade either way, so nothing may follow this message before the answer.
    pub upgrade: bool,
    /// Whether the client is willing to send another request on this connection.
    pub keep_alive: bool,
    /// Whether a field name contains `_`, which many origins cannot tell from `-`.
    pub has_underscore_names: bool,
}

/// A range of the inspected bytes. (`std::ops::Range` is not `Copy`.)
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Span {
    /// First byte.
    pub start: usize,
    /// Behind the last byte.
    pub end: usize,
}

impl Span {
    /// The bytes of this span; none if these are not the bytes that were inspected.
    #[must_use]
    pub fn of<'a>(&self, head: &'a [u8]) -> &'a [u8] {
        head.get(self.start..self.end).unwrap_or_default()
    }
}

/// What follows a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    /// The next message.
    None,
    /// So many bytes; may be zero.
    Length(u64),
    /// Chunks.
    Chunked,
}

/// Why a head is refused; each of these is one status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadError {
    /// 400: it can be read in more than one way, or in none.
    Malformed(Malformed),
    /// 414
    UriTooLong,
    /// 431: too many bytes or too many fields.
    HeadersTooLarge,
    /// 501: a method longer than any known one, `CONNECT` or `TRACE`.
    MethodNotImplemented,
    /// 505
    VersionNotSupported,
    /// 417: an expectation other than `100-continue`.
    ExpectationFailed,
}

/// What is wrong with a malformed head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    /// A line that ends in LF without CR, or a CR without LF.
    LineEnd,
    /// The blank line is missing.
    Unfinished,
    /// Not method, one space, target, one space, version.
    RequestLine,
    /// A target with a byte that has no place in one.
    TargetByte,
    /// A target with `#`.
    Fragment,
    /// A target that is neither a path, nor `http://host/path`, nor `*` with `OPTIONS`.
    TargetForm,
    /// An absolute target whose authority is not the `Host`.
    TargetHostMismatch,
    /// A line that starts with a space: a folded value, or a field before the first.
    FoldedLine,
    /// A field name that is empty, has a byte that is no token, or no colon right behind it.
    FieldName,
    /// A control byte in a field value.
    FieldValue,
    /// No `Host`.
    HostMissing,
    /// More than one `Host`.
    HostRepeated,
    /// A `Host` that is not a host and an optional port.
    HostInvalid,
    /// More than one `Content-Length`.
    ContentLengthRepeated,
    /// A `Content-Length` that is not 1 to 19 digits.
    ContentLengthInvalid,
    /// More than one `Transfer-Encoding`.
    TransferEncodingRepeated,
    /// A `Transfer-Encoding` other than `chunked`.
    TransferEncodingInvalid,
    /// `Transfer-Encoding` in HTTP/1.0.
    TransferEncodingInHttp10,
    /// Both `Content-Length` and `Transfer-Encoding`.
    LengthAndEncoding,
    /// A `Connection` that is not a list of tokens.
    ConnectionInvalid,
    /// A `Connection` that names a field which is not the client's to drop.
    ConnectionNames(&'static str),
}

impl HeadError {
    /// One plain sentence without a full stop; the same for everyone, so it may be shown to the client.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Malformed(malformed) => malformed.as_str(),
            Self::UriTooLong => "the request target is too long",
            Self::HeadersTooLarge => "the header fields are too large or too many",
            Self::MethodNotImplemented => "the method is not implemented",
            Self::VersionNotSupported => "the HTTP version is not supported",
            Self::ExpectationFailed => "the only expectation that can be met is 100-continue",
        }
    }
}

impl Malformed {
    /// One plain sentence without a full stop; the same for everyone, so it may be shown to the client.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::LineEnd => "a line of the head does not end in CR LF",
            Self::Unfinished => "the head has no end",
            Self::RequestLine => "the request line is not a method, a target and a version with one space between them",
            Self::TargetByte => "the request target contains a byte that has to be percent-encoded",
            Self::Fragment => "the request target contains a fragment",
            Self::TargetForm => "the request target is not a path",
            Self::TargetHostMismatch => "the request target names another host than the Host field",
            Self::FoldedLine => "a header line starts with a space",
            Self::FieldName => "a header field name is malformed",
            Self::FieldValue => "a header field value contains a control character",
            Self::HostMissing => "the Host field is missing",
            Self::HostRepeated => "the Host field is repeated",
            Self::HostInvalid => "the Host field is not a host and an optional port",
            Self::ContentLengthRepeated => "the Content-Length field is repeated",
            Self::ContentLengthInvalid => "the Content-Length field is not a number",
            Self::TransferEncodingRepeated => "the Transfer-Encoding field is repeated",
            Self::TransferEncodingInvalid => "the only transfer encoding that is understood is chunked",
            Self::TransferEncodingInHttp10 => "HTTP/1.0 has no Transfer-Encoding",
            Self::LengthAndEncoding => "Content-Length and Transfer-Encoding exclude each other",
            Self::ConnectionInvalid => "the Connection field is not a list of names",
            Self::ConnectionNames(_) => "the Connection field names a field that may not be dropped",
        }
    }
}

impl From<Malformed> for HeadError {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}

impl fmt::Display for HeadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())?;
        match self {
            Self::Malformed(Malformed::ConnectionNames(name)) => write!(f, ": {name}"),
            _ => Ok(()),
        }
    }
}

impl std::error::Error for HeadError {}

/// Where the head in the buffer ends, if its end has arrived; `from` bytes were searched by earlier calls.
///
/// A line feed without a carriage return is an end too: [`inspect`] refuses what lies before it at once, where waiting
/// for the blank line would hold the connection until its deadline.
#[must_use]
pub fn find_head_end(buffer: &[u8], from: usize) -> Option<usize> {
    let mut at = from.min(buffer.len());
    while let Some(offset) = memchr::memchr(b'\n', &buffer[at..]) {
        let line_feed = at + offset;
        let before = &buffer[..line_feed];
        if !before.ends_with(b"\r") || before.ends_with(b"\r\n\r") {
            return Some(line_feed + 1);
        }
        at = line_feed + 1;
    }
    None
}

/// Whether a head whose end has not arrived is over a limit already.
#[must_use]
pub fn overrun(buffer: &[u8], limits: &HeadLimits) -> Option<HeadError> {
    let line = buffer.strip_prefix(b"\r\n").unwrap_or(buffer);
    let method_room = &line[..line.len().min(limits.method.saturating_add(1))];
    match memchr::memchr2(b' ', b'\n', method_room) {
        None if line.len() > limits.method => return Some(HeadError::MethodNotImplemented),
        None => {}
        Some(at) if line[at] == b'\n' => return Some(Malformed::RequestLine.into()),
        Some(space) => {
            let target = &line[space + 1..];
            if target.len() > limits.target && memchr::memchr2(b' ', b'\n', &target[..=limits.target]).is_none() {
                return Some(HeadError::UriTooLong);
            }
        }
    }
    (buffer.len() >= limits.bytes).then_some(HeadError::HeadersTooLarge)
}

/// Reads a head that [`find_head_end`] found the end of, and refuses it unless it can be read in one way only.
///
/// # Errors
/// See [`HeadError`]; the connection cannot be used afterwards, because where the next message starts is unknown.
pub fn inspect(head: &[u8], limits: &HeadLimits) -> Result<Head, HeadError> {
    let start = if head.starts_with(b"\r\n") { 2 } else { 0 };
    let line = request_line(head, start, limits)?;
    let mut fields = Fields::default();
    let mut at = line.end;
    loop {
        let rest = &head[at..];
        match rest {
            [b'\r', b'\n', ..] => break,
            [] => return Err(Malformed::Unfinished.into()),
            _ => at += fields.line(rest, at, limits)?,
        }
    }
    let length = at + 2;
    if length > limits.bytes {
        return Err(HeadError::HeadersTooLarge);
    }
    let host = fields.host.ok_or(Malformed::HostMissing)?;
    if line.absolute && !line.authority.of(head).eq_ignore_ascii_case(host.of(head)) {
        return Err(Malformed::TargetHostMismatch.into());
    }
    Ok(Head {
        length,
        start,
        method: line.method,
        target: line.target,
        path: line.path,
        absolute: line.absolute,
        host,
        fields: fields.count,
        body: fields.body(line.http10)?,
        http10: line.http10,
        expect_continue: fields.expect && !line.http10,
        upgrade: fields.upgrade && !line.http10,
        keep_alive: !fields.close && (!line.http10 || fields.keep_alive),
        has_underscore_names: fields.underscore,
    })
}

struct RequestLine {
    method: Span,
    target: Span,
    path: Span,
    authority: Span,
    absolute: bool,
    http10: bool,
    end: usize,
}

fn request_line(head: &[u8], start: usize, limits: &HeadLimits) -> Result<RequestLine, HeadError> {
    let method_end = start + field::run(&head[start..], TOKEN);
    if method_end - start > limits.method {
        return Err(HeadError::MethodNotImplemented);
    }
    if method_end == start || head.get(method_end) != Some(&b' ') {
        return Err(Malformed::RequestLine.into());
    }
    let method = &head[start..method_end];
    let target_start = method_end + 1;
    let mut target_end = target_start + field::run(&head[target_start..], PATH);
    let path_end = target_end;
    if head.get(target_end) == Some(&b'?') {
        target_end += field::run(&head[target_end..], QUERY);
    }
    if target_end - target_start > limits.target {
        return Err(HeadError::UriTooLong);
    }
    match head.get(target_end) {
        Some(b' ') if target_end > target_start => {}
        Some(b'#') => return Err(Malformed::Fragment.into()),
        None | Some(b' ' | b'\r' | b'\n') => return Err(Malformed::RequestLine.into()),
        Some(_) => return Err(Malformed::TargetByte.into()),
    }
    let (http10, end) = version(head, target_end + 1)?;
    // Tunnels and loopbacks are no business of a gateway. Methods are case-sensitive, origins are not always.
    if method.eq_ignore_ascii_case(b"CONNECT") || method.eq_ignore_ascii_case(b"TRACE") {
        return Err(HeadError::MethodNotImplemented);
    }
    let target = Span {
        start: target_start,
        end: target_end,
    };
    let mut line = RequestLine {
        method: Span { start, end: method_end },
        target,
        path: target,
        authority: Span::default(),
        absolute: false,
        http10,
        end,
    };
    let path = &head[target_start..path_end];
    if path.starts_with(b"/") || (path == b"*" && target_end == path_end && method == b"OPTIONS") {
        return Ok(line);
    }
    // `https://` is not taken: whether the connection is secured is not for the client to say.
    if path
        .get(..7)
        .is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"http://"))
        && let Some(slash) = memchr::memchr(b'/', &path[7..])
    {
        line.absolute = true;
        line.authority = Span {
            start: target_start + 7,
            end: target_start + 7 + slash,
        };
        line.path.start = line.authority.end;
        return Ok(line);
    }
    Err(Malformed::TargetForm.into())
}

/// Whether it is HTTP/1.0, and where the next line starts.
fn version(head: &[u8], at: usize) -> Result<(bool, usize), HeadError> {
    let http10 = match head.get(at..) {
        Some([b'H', b'T', b'T', b'P', b'/', b'1', b'.', minor @ (b'0' | b'1'), ..]) => *minor == b'0',
        Some([b'H', b'T', b'T', b'P', b'/', major, b'.', minor, ..])
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            return Err(HeadError::VersionNotSupported);
        }
        _ => return Err(Malformed::RequestLine.into()),
    };
    match head.get(at + 8..) {
        Some([b'\r', b'\n', ..]) => Ok((http10, at + 10)),
        Some([b'\n' | b'\r', ..]) => Err(Malformed::LineEnd.into()),
        Some([]) | None => Err(Malformed::Unfinished.into()),
        _ => Err(Malformed::RequestLine.into()),
    }
}

/// What the header lines have said so far.
#[derive(Default)]
struct Fields {
    count: usize,
    host: Option<Span>,
    length: Option<u64>,
    chunked: bool,
    expect: bool,
    upgrade: bool,
    close: bool,
    keep_alive: bool,
    underscore: bool,
}

impl Fields {
    /// Takes one line, which starts at `at` of the head, and says how long it is with its end.
    fn line(&mut self, line: &[u8], at: usize, limits: &HeadLimits) -> Result<usize, HeadError> {
        self.count += 1;
        if self.count > limits.fields || at > limits.bytes {
            return Err(HeadError::HeadersTooLarge);
        }
        let name_end = field::run(line, TOKEN);
        let name = &line[..name_end];
        match line.get(name_end) {
            Some(b':') if name_end > 0 => {}
            Some(b' ' | b'\t') if name_end == 0 => return Err(Malformed::FoldedLine.into()),
            Some(b'\r') if name_end == 0 => return Err(Malformed::LineEnd.into()),
            Some(b'\n') => return Err(Malformed::LineEnd.into()),
            _ => return Err(Malformed::FieldName.into()),
        }
        let value_start = name_end + 1;
        let value_end = value_start + field::value_run(&line[value_start..]);
        match &line[value_end..] {
            [b'\r', b'\n', ..] => {}
            [b'\n' | b'\r', ..] => return Err(Malformed::LineEnd.into()),
            [] => return Err(Malformed::Unfinished.into()),
            _ => return Err(Malformed::FieldValue.into()),
        }
        self.field(name, line, value_start, value_end, at)?;
        Ok(value_end + 2)
    }

    /// Looks at the fields that decide about framing; every other one only has to be well formed.
    fn field(&mut self, name: &[u8], line: &[u8], start: usize, end: usize, at: usize) -> Result<(), HeadError> {
        self.underscore |= memchr::memchr(b'_', name).is_some();
        let value = || field::trim(&line[start..end]);
        let is = |listed: &[u8]| name.eq_ignore_ascii_case(listed);
        match name.len() {
            4 if is(b"host") => {
                if self.host.is_some() {
                    return Err(Malformed::HostRepeated.into());
                }
                let value = value();
                if !field::is_authority(value) {
                    return Err(Malformed::HostInvalid.into());
                }
                let leading = line[start..end]
                    .iter()
                    .take_while(|byte| matches!(byte, b' ' | b'\t'))
                    .count();
                let start = at + start + leading;
                self.host = Some(Span {
                    start,
                    end: start + value.len(),
                });
            }
            6 if is(b"expect") => {
                if !value().eq_ignore_ascii_case(b"100-continue") {
                    return Err(HeadError::ExpectationFailed);
                }
                self.expect = true;
            }
            7 if is(b"upgrade") => self.upgrade = true,
            10 if is(b"connection") => self.connection(value())?,
            14 if is(b"content-length") => {
                if self.length.is_some() {
                    return Err(Malformed::ContentLengthRepeated.into());
                }
                self.length = Some(content_length(value()).ok_or(Malformed::ContentLengthInvalid)?);
            }
            17 if is(b"transfer-encoding") => {
                if self.chunked {
                    return Err(Malformed::TransferEncodingRepeated.into());
                }
                if !value().eq_ignore_ascii_case(b"chunked") {
                    return Err(Malformed::TransferEncodingInvalid.into());
                }
                self.chunked = true;
            }
            _ => {}
        }
        Ok(())
    }

    fn connection(&mut self, value: &[u8]) -> Result<(), HeadError> {
        for name in value.split(|&byte| byte == b',').map(field::trim) {
            if field::run(name, TOKEN) != name.len() {
                return Err(Malformed::ConnectionInvalid.into());
            }
            if name.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if name.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive = true;
            } else if let Some(protected) = field::protected(name) {
                return Err(Malformed::ConnectionNames(protected).into());
            }
        }
        Ok(())
    }

    fn body(&self, http10: bool) -> Result<Body, HeadError> {
        match (self.length, self.chunked) {
            (Some(_), true) => Err(Malformed::LengthAndEncoding.into()),
            (None, true) if http10 => Err(Malformed::TransferEncodingInHttp10.into()),
            (None, true) => Ok(Body::Chunked),
            (Some(length), false) => Ok(Body::Length(length)),
            (None, false) => Ok(Body::None),
        }
    }
}

/// One to 19 digits: more than any body, and no overflow to think about.
pub(super) fn content_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 19 || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(
        value
            .iter()
            .fold(0, |length, digit| length * 10 + u64::from(digit - b'0')),
    )
}
