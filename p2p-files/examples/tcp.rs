//! A verified file server and client over plain TCP.
//!
//! ```sh
//! cargo run -p p2p-files --example tcp -- serve FILE [ADDRESS]
//! cargo run -p p2p-files --example tcp -- get HASH FOLDER ADDRESS [ADDRESS ...]
//! ```
//!
//! Without arguments it does both: serves a file of 20 MiB on two loopback ports and fetches it from both at once.

#![expect(clippy::print_stdout, reason = "an example talks to a person")]

use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use p2p_files::{
    Destination, Download, DownloadConfig, DownloadEvent, FileHash, Library, ServeLimits, ServeStats, serve,
};
use tokio::net::{TcpListener, TcpStream};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

#[tokio::main]
async fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let data = tempfile::tempdir()?;
    let library = Arc::new(Library::open(data.path())?);
    match args.as_slice() {
        [] => demo(data.path()).await,
        ["serve", file, rest @ ..] => {
            let share = library.add(Path::new(file), |_, _| ())?;
            let listener = TcpListener::bind(rest.first().unwrap_or(&"127.0.0.1:0")).await?;
            println!("{} at {}", share.hash, listener.local_addr()?);
            listen(listener, library).await
        }
        ["get", hash, folder, addresses @ ..] => get(library, hash.parse()?, folder, addresses).await,
        _ => Err("serve FILE [ADDRESS] | get HASH FOLDER ADDRESS ...".into()),
    }
}

/// Serves every connection until the process ends.
async fn listen(listener: TcpListener, library: Arc<Library>) -> Result<()> {
    let stats = Arc::new(ServeStats::default());
    loop {
        let (stream, peer) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let served = serve(stream, Arc::clone(&library), ServeLimits::default(), Arc::clone(&stats));
        tokio::spawn(async move {
            if let Err(error) = served.await {
                println!("{peer}: {error}");
            }
        });
    }
}

/// Fetches one file from all addresses at once.
async fn get(library: Arc<Library>, hash: FileHash, folder: &str, addresses: &[&str]) -> Result<()> {
    let mut streams = Vec::new();
    for address in addresses {
        streams.push((*address, TcpStream::connect(address).await?));
    }
    let to = Destination::Dir(folder.into(), None);
    let download = Download::start(library, hash, to, DownloadConfig::default())?;
    for (address, stream) in streams {
        download.add_source(address, stream);
    }
    while let Some(event) = download.next_event().await {
        match event {
            DownloadEvent::SourceFailed { label, fault } => println!("{label} {fault}"),
            DownloadEvent::NeedSource => download.cancel(),
            DownloadEvent::Finished(done) => {
                let mib_s = done.length as f64 / 1.048_576 / done.ms.max(1) as f64 / 1000.0;
                println!(
                    "{}: {} bytes from {} sources, {mib_s:.0} MiB/s",
                    done.path.display(),
                    done.length,
                    done.sources
                );
            }
            DownloadEvent::Failed(error) => return Err(error.into()),
            other => println!("{other:?}"),
        }
    }
    Ok(())
}

async fn demo(dir: &Path) -> Result<()> {
    let file = dir.join("original");
    std::fs::write(&file, (0..5 << 20).flat_map(u32::to_le_bytes).collect::<Vec<u8>>())?;
    let mut addresses = Vec::new();
    let mut hash = None;
    for name in ["one", "two"] {
        let library = Arc::new(Library::open(&dir.join(name))?);
        hash = Some(library.add(&file, |_, _| ())?.hash);
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        addresses.push(listener.local_addr()?.to_string());
        tokio::spawn(listen(listener, library));
    }
    let hash = hash.ok_or("nothing was shared")?;
    let library = Arc::new(Library::open(&dir.join("receiver"))?);
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let folder = dir.join("content");
    get(Arc::clone(&library), hash, &folder.to_string_lossy(), &addresses).await?;
    let share = library.get(&hash).ok_or("it is shared from now on")?;
    assert!(std::fs::read(share.path)? == std::fs::read(file)?, "the file is the original");
    Ok(())
}
