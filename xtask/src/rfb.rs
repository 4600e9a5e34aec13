//! A viewer of a VNC server without a password (RFC 6143, "The Remote Framebuffer Protocol"), for the tests.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::control::Picture;

/// How long the server has to answer.
const ANSWER: Duration = Duration::from_secs(20);
/// The version that is spoken, on both sides (7.1.1, "ProtocolVersion Handshake").
const VERSION: &[u8; 12] = b"RFB 003.008\n";
/// The security type without a password (7.2.1, "None").
const NONE: u8 = 1;
/// Messages to the server (7.5, "Client-to-Server Messages").
const SET_PIXEL_FORMAT: u8 = 0;
const SET_ENCODINGS: u8 = 2;
const UPDATE_REQUEST: u8 = 3;
const POINTER_EVENT: u8 = 5;
/// Message to the client: a framebuffer update (7.6.1, "FramebufferUpdate").
const UPDATE: u8 = 0;
/// Encodings: pixels as they are, and that the screen has another size (7.7.1, "Raw Encoding"; 7.8.2, "DesktopSize Pseudo-Encoding").
const RAW: i32 = 0;
const DESKTOP_SIZE: i32 = -223;
/// 32 bits a pixel, little-endian: blue, green, red and nothing (7.4, "Pixel Format Data Structure").
const FORMAT: [u8; 16] = [32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 16, 8, 0, 0, 0, 0];
/// Pixels that a screen has at most in either direction.
const MOST: u16 = 4096;

/// A viewer.
#[derive(Debug)]
pub struct Viewer {
    stream: TcpStream,
    width: u16,
    height: u16,
}

impl Viewer {
    /// Connects to the server at `address`.
    ///
    /// # Errors
    ///
    /// There is none, or it wants a password.
    pub fn connect(address: SocketAddr) -> Result<Viewer> {
        let stream = TcpStream::connect_timeout(&address, ANSWER)?;
        stream.set_read_timeout(Some(ANSWER))?;
        let mut viewer = Viewer {
            stream,
            width: 0,
            height: 0,
        };
        let version: [u8; 12] = viewer.read()?;
        ensure!(version == *VERSION, "the server speaks another version");
        viewer.write(VERSION)?;
        let [count] = viewer.read()?;
        let mut kinds = vec![0; count.into()];
        viewer.stream.read_exact(&mut kinds)?;
        ensure!(kinds.contains(&NONE), "the server wants a password");
        viewer.write(&[NONE])?;
        ensure!(viewer.read()? == [0; 4], "the server refuses");
        // Others may watch, too.
        viewer.write(&[1])?;
        let [w0, w1, h0, h1] = viewer.read()?;
        viewer.resized(u16::from_be_bytes([w0, w1]), u16::from_be_bytes([h0, h1]))?;
        let _format: [u8; 16] = viewer.read()?;
        let length = u32::from_be_bytes(viewer.read()?);
        let mut name = vec![0; length.min(1024) as usize];
        viewer.stream.read_exact(&mut name)?;
        viewer.write(&[[SET_PIXEL_FORMAT, 0, 0, 0].as_slice(), &FORMAT].concat())?;
        let encodings = [RAW, DESKTOP_SIZE].map(i32::to_be_bytes).concat();
        viewer.write(&[[SET_ENCODINGS, 0, 0, 2].as_slice(), &encodings].concat())?;
        Ok(viewer)
    }

    fn resized(&mut self, width: u16, height: u16) -> Result<()> {
        ensure!(width <= MOST && height <= MOST, "the screen is too large");
        (self.width, self.height) = (width, height);
        Ok(())
    }

    fn read<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.stream
            .read_exact(&mut bytes)
            .context("the server says nothing more")?;
        Ok(bytes)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.stream.write_all(bytes)?)
    }

    /// Puts the pointer onto a pixel, with these buttons held: bit 0 left, 1 middle, 2 right.
    ///
    /// # Errors
    ///
    /// The server has gone.
    pub fn point(&mut self, x: u16, y: u16, buttons: u8) -> Result<()> {
        let [x0, x1] = x.to_be_bytes();
        let [y0, y1] = y.to_be_bytes();
        self.write(&[POINTER_EVENT, buttons, x0, x1, y0, y1])
    }

    /// The screen.
    ///
    /// # Errors
    ///
    /// The server does not show it.
    pub fn screen(&mut self) -> Result<Picture> {
        // A size that changes is told instead of pixels.
        for _ in 0..10 {
            let [w0, w1] = self.width.to_be_bytes();
            let [h0, h1] = self.height.to_be_bytes();
            self.write(&[UPDATE_REQUEST, 0, 0, 0, 0, 0, w0, w1, h0, h1])?;
            if let Some(picture) = self.update()? {
                return Ok(picture);
            }
        }
        bail!("the screen changes its size all the time")
    }

    /// An update of the whole screen. None: it has another size now.
    fn update(&mut self) -> Result<Option<Picture>> {
        let (width, height) = (usize::from(self.width), usize::from(self.height));
        let mut rgb = vec![0; 3 * width * height];
        let [kind, _, n0, n1] = self.read()?;
        ensure!(kind == UPDATE, "the server says something else: {kind}");
        let mut same = true;
        for _ in 0..u16::from_be_bytes([n0, n1]) {
            let [x0, x1, y0, y1, w0, w1, h0, h1, e0, e1, e2, e3] = self.read()?;
            let [x, y] = [[x0, x1], [y0, y1]].map(|bytes| usize::from(u16::from_be_bytes(bytes)));
            let [w, h] = [[w0, w1], [h0, h1]].map(u16::from_be_bytes);
            match i32::from_be_bytes([e0, e1, e2, e3]) {
                DESKTOP_SIZE => {
                    self.resized(w, h)?;
                    same = false;
                }
                RAW => {
                    let mut row = vec![0; 4 * usize::from(w)];
                    for line in y..y + usize::from(h) {
                        self.stream.read_exact(&mut row)?;
                        let from = 3 * (line * width + x);
                        let to = rgb.get_mut(from..from + 3 * usize::from(w));
                        let to = to.context("there is no such pixel")?;
                        for (to, bgr) in to.chunks_exact_mut(3).zip(row.chunks_exact(4)) {
                            to.copy_from_slice(&[bgr[2], bgr[1], bgr[0]]);
                        }
                    }
                }
                other => bail!("the server uses encoding {other}"),
            }
        }
        Ok(same.then_some(Picture {
            width: width as u32,
            height: height as u32,
            rgb,
        }))
    }
}
