//! A service and a client that speak gRPC, both real: what the code generator would write, written by hand for one
//! message type.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use http::uri::PathAndQuery;
use tokio::runtime::Runtime;
use tokio::sync::{Notify, mpsc};
use tonic::body::Body;
use tonic::codegen::tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::{BoxFuture, BoxStream, Service};
use tonic::metadata::MetadataMap;
use tonic::server::NamedService;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

use super::PATIENCE;

/// The one message.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Word {
    #[prost(string, tag = "1")]
    pub text: String,
}

/// A running service `tollgate.test.Words`. Ends when dropped.
pub struct GrpcService {
    address: SocketAddr,
    state: Arc<State>,
    _runtime: Runtime,
}

#[derive(Default)]
struct State {
    calls: AtomicUsize,
    /// Calls that are being handled.
    active: AtomicUsize,
    /// Calls that were begun to be handled and not handled to their end.
    cancelled: AtomicUsize,
    release: Notify,
    seen: Mutex<MetadataMap>,
}

#[derive(Clone)]
struct Words(Arc<State>);

/// Counts a call that is dropped before it is over.
struct Handling {
    state: Arc<State>,
    done: bool,
}

/// A client of that service, through whatever is at an address.
pub struct GrpcClient {
    runtime: Runtime,
    channel: Channel,
    metadata: MetadataMap,
}

/// A call that streams both ways.
pub struct Conversation<'a> {
    client: &'a GrpcClient,
    sender: Option<mpsc::Sender<Word>>,
    answers: Streaming<Word>,
}

impl GrpcService {
    /// Starts it on a free port.
    pub fn start() -> Self {
        let runtime = runtime();
        let state = Arc::new(State::default());
        let words = Words(Arc::clone(&state));
        let (incoming, address) = runtime.block_on(async {
            let incoming = TcpIncoming::bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
            let address = incoming.local_addr().unwrap();
            (incoming, address)
        });
        runtime.spawn(async move {
            let served = Server::builder()
                .add_service(words)
                .serve_with_incoming(incoming.with_nodelay(Some(true)));
            served.await.expect("serving gRPC");
        });
        Self {
            address,
            state,
            _runtime: runtime,
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many calls it got.
    pub fn calls(&self) -> usize {
        self.state.calls.load(Ordering::SeqCst)
    }

    /// How many of them are not over.
    pub fn active(&self) -> usize {
        self.state.active.load(Ordering::SeqCst)
    }

    /// How many of them were given up before they were over. Not those of `Shout`, whose end the library tells as the end
    /// of the words either way.
    pub fn cancelled(&self) -> usize {
        self.state.cancelled.load(Ordering::SeqCst)
    }

    /// Lets one call go on that waits in the middle.
    pub fn release(&self) {
        self.state.release.notify_one();
    }

    /// What came with the last call, beside its messages.
    pub fn seen(&self, name: &str) -> Option<String> {
        let seen = self.state.seen.lock().unwrap();
        Some(seen.get(name)?.to_str().unwrap().to_owned())
    }
}

impl Words {
    fn handle<T>(&self, request: &Request<T>) -> Handling {
        self.0.calls.fetch_add(1, Ordering::SeqCst);
        self.0.active.fetch_add(1, Ordering::SeqCst);
        request.metadata().clone_into(&mut self.0.seen.lock().unwrap());
        Handling {
            state: Arc::clone(&self.0),
            done: false,
        }
    }

    async fn say(self, request: Request<Word>) -> Result<Response<Word>, Status> {
        let handling = self.handle(&request);
        let text = request.into_inner().text;
        match text.as_str() {
            "fail" => {
                handling.finish();
                let mut metadata = MetadataMap::new();
                metadata.insert("x-why", "it was asked to".parse().unwrap());
                let details = b"details in bytes".to_vec().into();
                Err(Status::with_details_and_metadata(
                    Code::FailedPrecondition,
                    "as you wish: 100 %",
                    details,
                    metadata,
                ))
            }
            "hang" => std::future::pending().await,
            _ => {
                handling.finish();
                let mut response = Response::new(word(&text));
                response.metadata_mut().insert("x-said", "yes".parse().unwrap());
                Ok(response)
            }
        }
    }

    /// Says the text as often as its length; in the middle it waits when the text is `wait`.
    async fn repeat(self, request: Request<Word>) -> Result<Response<BoxStream<Word>>, Status> {
        let handling = self.handle(&request);
        let text = request.into_inner().text;
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            for at in 0..text.len() {
                if at == 2 && text == "wait" {
                    tokio::select! {
                        () = handling.state.release.notified() => {}
                        () = sender.closed() => return,
                    }
                }
                if sender.send(Ok(word(&text))).await.is_err() {
                    return;
                }
            }
            if text == "fail" {
                let _ = sender.send(Err(Status::data_loss("after all of them"))).await;
            }
            handling.finish();
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    /// Joins all words.
    async fn join(self, request: Request<Streaming<Word>>) -> Result<Response<Word>, Status> {
        let handling = self.handle(&request);
        let mut words = request.into_inner();
        let mut joined = String::new();
        while let Some(word) = words.message().await? {
            joined.push_str(&word.text);
        }
        handling.finish();
        Ok(Response::new(word(&joined)))
    }

    /// Says each word in capitals as it comes.
    async fn shout(self, request: Request<Streaming<Word>>) -> Result<Response<BoxStream<Word>>, Status> {
        let handling = self.handle(&request);
        let mut words = request.into_inner();
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            while let Ok(Some(heard)) = words.message().await {
                if sender.send(Ok(word(&heard.text.to_uppercase()))).await.is_err() {
                    return;
                }
            }
            handling.finish();
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

impl Handling {
    fn finish(mut self) {
        self.done = true;
    }
}

impl Drop for Handling {
    fn drop(&mut self) {
        self.state.active.fetch_sub(1, Ordering::SeqCst);
        if !self.done {
            self.state.cancelled.fetch_add(1, Ordering::SeqCst);
        }
    }
}

impl NamedService for Words {
    const NAME: &'static str = "tollgate.test.Words";
}

impl Service<http::Request<Body>> for Words {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<http::Response<Body>, Infallible>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let words = self.clone();
        Box::pin(async move {
            let mut grpc = tonic::server::Grpc::new(ProstCodec::<Word, Word>::default());
            let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
            Ok(match method.as_str() {
                "Say" => {
                    grpc.unary(tower::service_fn(|call| words.clone().say(call)), request)
                        .await
                }
                "Repeat" => {
                    grpc.server_streaming(tower::service_fn(|call| words.clone().repeat(call)), request)
                        .await
                }
                "Join" => {
                    grpc.client_streaming(tower::service_fn(|call| words.clone().join(call)), request)
                        .await
                }
                "Shout" => {
                    grpc.streaming(tower::service_fn(|call| words.clone().shout(call)), request)
                        .await
                }
                _ => Status::unimplemented("no such method").into_http(),
            })
        })
    }
}

impl GrpcClient {
    /// Connects to an address.
    #[track_caller]
    pub fn to(address: SocketAddr) -> Self {
        let runtime = runtime();
        let channel = runtime.block_on(async {
            let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
            endpoint.connect().await.unwrap()
        });
        Self {
            runtime,
            channel,
            metadata: MetadataMap::new(),
        }
    }

    /// Sends this with every call.
    pub fn with(mut self, name: &'static str, value: &str) -> Self {
        self.metadata.insert(name, value.parse().unwrap());
        self
    }

    /// One word there, one back, within this time if there is one.
    pub fn say(&self, text: &str, within: Option<Duration>) -> Result<Response<Word>, Status> {
        let request = self.request(word(text), within);
        self.run(async {
            let mut grpc = self.grpc().await?;
            grpc.unary(request, path("Say"), ProstCodec::<Word, Word>::default())
                .await
        })
    }

    /// A call to a method that there is not.
    pub fn miss(&self) -> Status {
        let request = self.request(word(""), None);
        let missed: Result<Response<Word>, Status> = self.run(async {
            let mut grpc = self.grpc().await?;
            grpc.unary(
                request,
                PathAndQuery::from_static("/nowhere/Miss"),
                ProstCodec::<Word, Word>::default(),
            )
            .await
        });
        missed.unwrap_err()
    }

    /// One word there, many back.
    pub fn repeat(&self, text: &str) -> Result<Conversation<'_>, Status> {
        let request = self.request(word(text), None);
        let answers = self.run(async {
            let mut grpc = self.grpc().await?;
            grpc.server_streaming(request, path("Repeat"), ProstCodec::<Word, Word>::default())
                .await
        })?;
        Ok(Conversation {
            client: self,
            sender: None,
            answers: answers.into_inner(),
        })
    }

    /// Many words there, each as the pause between them is over, one back.
    pub fn join(&self, words: &[&str], pause: Duration) -> Result<Response<Word>, Status> {
        let (sender, receiver) = mpsc::channel(1);
        let request = self.request(ReceiverStream::new(receiver), None);
        let words: Vec<Word> = words.iter().map(|text| word(text)).collect();
        self.run(async {
            let sending = async move {
                for word in words {
                    tokio::time::sleep(pause).await;
                    if sender.send(word).await.is_err() {
                        return;
                    }
                }
            };
            let mut grpc = self.grpc().await?;
            let call = grpc.client_streaming(request, path("Join"), ProstCodec::<Word, Word>::default());
            tokio::join!(sending, call).1
        })
    }

    /// Many words both ways.
    pub fn shout(&self, within: Option<Duration>) -> Result<Conversation<'_>, Status> {
        let (sender, receiver) = mpsc::channel(1);
        let request = self.request(ReceiverStream::new(receiver), within);
        let answers = self.run(async {
            let mut grpc = self.grpc().await?;
            grpc.streaming(request, path("Shout"), ProstCodec::<Word, Word>::default())
                .await
        })?;
        Ok(Conversation {
            client: self,
            sender: Some(sender),
            answers: answers.into_inner(),
        })
    }

    fn request<T>(&self, message: T, within: Option<Duration>) -> Request<T> {
        let mut request = Request::new(message);
        *request.metadata_mut() = self.metadata.clone();
        if let Some(within) = within {
            request.set_timeout(within);
        }
        request
    }

    async fn grpc(&self) -> Result<tonic::client::Grpc<Channel>, Status> {
        let mut grpc = tonic::client::Grpc::new(self.channel.clone());
        grpc.ready().await.map_err(|error| Status::unknown(error.to_string()))?;
        Ok(grpc)
    }

    #[track_caller]
    fn run<T>(&self, call: impl Future<Output = T>) -> T {
        self.runtime
            .block_on(async { tokio::time::timeout(PATIENCE, call).await })
            .expect("an end of the call")
    }
}

impl Conversation<'_> {
    /// Says a word.
    #[track_caller]
    pub fn say(&mut self, text: &str) {
        let sender = self.sender.as_ref().expect("not finished yet");
        self.client.run(sender.send(word(text))).expect("somebody listens");
    }

    /// Has no more to say.
    pub fn finish(&mut self) {
        self.sender = None;
    }

    /// The next word; none at the end.
    pub fn hear(&mut self) -> Result<Option<String>, Status> {
        let heard = self.client.run(self.answers.message())?;
        Ok(heard.map(|word| word.text))
    }
}

fn word(text: &str) -> Word {
    Word { text: text.to_owned() }
}

fn path(method: &str) -> PathAndQuery {
    format!("/tollgate.test.Words/{method}").parse().unwrap()
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap()
}
