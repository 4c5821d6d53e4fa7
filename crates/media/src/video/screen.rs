//! Screens and windows of this machine, by X11. On Wayland, Windows, macOS and phones there are none yet.
//!
//! A window is read from a picture of its own (the X Composite extension), so what lies over it is never shown. The pointer is drawn in,
//! as X leaves it out of what it gives (XFIXES). A window that is out of sight stands still; one that is closed ends the pictures.

/// Something that can be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScreenDevice {
    /// Names it as long as it is there: `screen:NAME`, `window:NUMBER`.
    pub id: String,
    /// Of a screen, its plug; of a window, its title. For people.
    pub name: String,
    /// A window, not a whole screen.
    pub window: bool,
    /// Points across and down.
    pub size: (u32, u32),
}

#[cfg(target_os = "linux")]
mod native {
    use super::ScreenDevice;
    use crate::video::VideoError;
    use crate::video::convert::{I420, Layout, Pointer};
    use crate::video::source::Frames;
    use x11rb::connection::Connection as _;
    use x11rb::errors::{ConnectError, ConnectionError, ReplyError, ReplyOrIdError};
    use x11rb::protocol::composite::{ConnectionExt as _, Redirect};
    use x11rb::protocol::randr::ConnectionExt as _;
    use x11rb::protocol::xfixes::ConnectionExt as _;
    use x11rb::protocol::xproto::{AtomEnum, ConnectionExt as _, ImageFormat, MapState, WindowClass};
    use x11rb::rust_connection::RustConnection;

    /// Frames a second: what is read moves little, and is to be sharp.
    const RATE: u32 = 12;
    /// The most that is sent.
    const MOST: (u32, u32) = (1_920, 1_080);
    /// Letters of a title.
    const TITLE: usize = 120;
    /// Windows that are offered.
    const WINDOWS: usize = 60;

    fn failed(e: impl std::fmt::Display) -> VideoError {
        VideoError::Device(e.to_string())
    }

    impl From<ReplyError> for VideoError {
        fn from(e: ReplyError) -> Self {
            failed(e)
        }
    }

    impl From<ConnectionError> for VideoError {
        fn from(e: ConnectionError) -> Self {
            failed(e)
        }
    }

    impl From<ReplyOrIdError> for VideoError {
        fn from(e: ReplyOrIdError) -> Self {
            failed(e)
        }
    }

    /// A connection to the display, and its root window.
    struct X {
        c: RustConnection,
        root: u32,
    }

    impl X {
        /// To that display, or to the one of this session.
        fn connect(display: Option<&str>) -> Result<Self, VideoError> {
            // There, X sees its own windows only, and the rest of the screen black.
            if display.is_none() && std::env::var_os("WAYLAND_DISPLAY").is_some_and(|w| !w.is_empty()) {
                return Err(VideoError::NoScreen);
            }
            let (c, n) = x11rb::connect(display).map_err(|e| match e {
                ConnectError::DisplayParsingError(_) | ConnectError::IoError(_) => VideoError::NoScreen,
                other => failed(other),
            })?;
            let root = c.setup().roots.get(n).ok_or(VideoError::NoScreen)?.root;
            c.randr_query_version(1, 5)?.reply()?;
            c.xfixes_query_version(4, 0)?.reply()?;
            c.composite_query_version(0, 4)?.reply()?;
            Ok(Self { c, root })
        }

        fn atom(&self, name: &str) -> Result<u32, VideoError> {
            Ok(self.c.intern_atom(false, name.as_bytes())?.reply()?.atom)
        }

        /// Screens: name, place, size.
        fn screens(&self) -> Result<Vec<(String, Area)>, VideoError> {
            let list = self.c.randr_get_monitors(self.root, true)?.reply()?.monitors;
            let one = |m: &x11rb::protocol::randr::MonitorInfo| {
                let name = self.c.get_atom_name(m.name)?.reply()?.name;
                Ok((String::from_utf8_lossy(&name).into_owned(), Area { x: m.x, y: m.y, width: m.width, height: m.height }))
            };
            list.iter().map(one).collect()
        }

        /// A property, as bytes; empty when there is none.
        fn property(&self, window: u32, name: u32) -> Result<Vec<u8>, VideoError> {
            Ok(self.c.get_property(false, window, name, AtomEnum::ANY, 0, 4_096)?.reply()?.value)
        }

        fn numbers(&self, window: u32, name: u32) -> Result<Vec<u32>, VideoError> {
            let bytes = self.property(window, name)?;
            Ok(bytes.chunks_exact(4).filter_map(|c| c.try_into().ok().map(u32::from_ne_bytes)).collect())
        }

        /// Windows of programs, as the window manager lists them; without one, those that lie on the root.
        fn windows(&self) -> Result<Vec<u32>, VideoError> {
            let list = self.numbers(self.root, self.atom("_NET_CLIENT_LIST")?)?;
            if list.is_empty() { Ok(self.c.query_tree(self.root)?.reply()?.children) } else { Ok(list) }
        }

        fn title(&self, window: u32) -> Result<String, VideoError> {
            let mut bytes = self.property(window, self.atom("_NET_WM_NAME")?)?;
            if bytes.is_empty() {
                bytes = self.property(window, AtomEnum::WM_NAME.into())?;
            }
            Ok(String::from_utf8_lossy(&bytes).trim().chars().take(TITLE).collect())
        }

        /// A window that can be shown: of another program, in sight, with a title.
        fn offered(&self, window: u32) -> Result<Option<ScreenDevice>, VideoError> {
            let attributes = self.c.get_window_attributes(window)?.reply()?;
            let seen = attributes.map_state == MapState::VIEWABLE && attributes.class == WindowClass::INPUT_OUTPUT;
            let own = self.numbers(window, self.atom("_NET_WM_PID")?)?.contains(&std::process::id());
            let name = self.title(window)?;
            if !seen || own || attributes.override_redirect || name.is_empty() {
                return Ok(None);
            }
            let size = self.c.get_geometry(window)?.reply()?;
            let size = (size.width.into(), size.height.into());
            Ok(Some(ScreenDevice { id: format!("window:{window}"), name, window: true, size }))
        }

        fn image(&self, of: u32, a: Area) -> Result<Vec<u8>, VideoError> {
            let image = self.c.get_image(ImageFormat::Z_PIXMAP, of, a.x, a.y, a.width, a.height, u32::MAX)?.reply()?;
            if image.data.len() != usize::from(a.width) * usize::from(a.height) * 4 {
                return Err(VideoError::Device(format!("a screen of {} bits for each point is not understood", image.depth)));
            }
            Ok(image.data)
        }

        fn pointer(&self) -> Result<Pointer, VideoError> {
            let p = self.c.xfixes_get_cursor_image()?.reply()?;
            let at = (i32::from(p.x) - i32::from(p.xhot), i32::from(p.y) - i32::from(p.yhot));
            Ok(Pointer { at, width: p.width.into(), points: p.cursor_image })
        }
    }

    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    struct Area {
        x: i16,
        y: i16,
        width: u16,
        height: u16,
    }

    fn list(x: &X) -> Result<Vec<ScreenDevice>, VideoError> {
        let screens = x.screens()?.into_iter().map(|(name, a)| {
            let size = (a.width.into(), a.height.into());
            ScreenDevice { id: format!("screen:{name}"), name, window: false, size }
        });
        // A window may be closed while it is asked about.
        let windows = x.windows()?.into_iter().filter_map(|w| x.offered(w).ok().flatten());
        Ok(screens.chain(windows.take(WINDOWS)).collect())
    }

    /// What can be shown now: screens first.
    #[must_use]
    pub fn devices() -> Vec<ScreenDevice> {
        X::connect(None).and_then(|x| list(&x)).unwrap_or_else(|cause| {
            tracing::debug!(%cause, "no screen can be shown");
            Vec::new()
        })
    }

    enum What {
        Screen(String),
        Window {
            id: u32,
            /// Its picture, of that size; another one when the size is another.
            picture: Option<(u32, Area)>,
        },
    }

    struct Live {
        x: X,
        what: What,
        raw: Vec<u8>,
        frame: I420,
        changed: bool,
    }

    /// Opens what [`devices`] named so.
    pub fn open(id: &str) -> Result<Box<dyn Frames>, VideoError> {
        Ok(Box::new(live(X::connect(None)?, id)?))
    }

    fn live(x: X, id: &str) -> Result<Live, VideoError> {
        let what = match id.split_once(':') {
            Some(("screen", name)) => What::Screen(name.to_owned()),
            Some(("window", n)) => {
                let id = n.parse().map_err(|_| VideoError::NoScreen)?;
                x.c.composite_redirect_window(id, Redirect::AUTOMATIC)?.check()?;
                What::Window { id, picture: None }
            }
            _ => return Err(VideoError::NoScreen),
        };
        let mut live = Live { x, what, raw: Vec::new(), frame: I420::default(), changed: true };
        live.next()?;
        Ok(live)
    }

    impl Live {
        /// A fresh image and where its first point lies on the root; nothing while it is out of sight.
        fn look(&mut self) -> Result<Option<(Vec<u8>, Area)>, VideoError> {
            let x = &self.x;
            match &mut self.what {
                What::Screen(name) => {
                    let screens = x.screens()?;
                    let (_, area) = screens.iter().find(|(n, _)| n == name).ok_or(VideoError::Ended)?;
                    Ok(Some((x.image(x.root, *area)?, *area)))
                }
                What::Window { id, picture } => {
                    // It is gone: the pictures end.
                    let Ok(attributes) = x.c.get_window_attributes(*id)?.reply() else { return Err(VideoError::Ended) };
                    if attributes.map_state != MapState::VIEWABLE {
                        return Ok(None);
                    }
                    let g = x.c.get_geometry(*id)?.reply()?;
                    let at = x.c.translate_coordinates(*id, x.root, 0, 0)?.reply()?;
                    let border = i16::try_from(g.border_width).unwrap_or(0);
                    let area = Area { x: border, y: border, width: g.width, height: g.height };
                    if let Some((old, _)) = picture.take_if(|(_, a)| *a != area) {
                        x.c.free_pixmap(old)?;
                    }
                    let (pixmap, _) = match picture {
                        Some(p) => *p,
                        None => {
                            let fresh = x.c.generate_id()?;
                            x.c.composite_name_window_pixmap(*id, fresh)?.check()?;
                            *picture.insert((fresh, area))
                        }
                    };
                    let points = x.image(pixmap, area)?;
                    Ok(Some((points, Area { x: at.dst_x, y: at.dst_y, ..area })))
                }
            }
        }
    }

    impl Frames for Live {
        fn width(&self) -> u32 {
            self.frame.width
        }

        fn height(&self) -> u32 {
            self.frame.height
        }

        fn rate(&self) -> u32 {
            RATE
        }

        fn changed(&self) -> bool {
            self.changed
        }

        fn frame(&self) -> &[u8] {
            &self.frame.bytes
        }

        fn next(&mut self) -> Result<(), VideoError> {
            let Some((mut points, area)) = self.look()? else {
                self.changed = false;
                return if self.frame.bytes.is_empty() { Err(VideoError::NoScreen) } else { Ok(()) };
            };
            self.x.pointer()?.draw(&mut points, area.width.into(), (area.x.into(), area.y.into()));
            self.changed = points != self.raw;
            if self.changed {
                self.raw = points;
                self.frame = I420::of(Layout::Bgrx, (area.width.into(), area.height.into()), &self.raw)?.within(MOST);
            }
            Ok(())
        }
    }

    #[cfg(test)]
    #[allow(clippy::unwrap_used, clippy::indexing_slicing)]
    mod tests {
        use super::*;
        use std::io::{BufRead as _, BufReader};
        use std::process::{Child, Command, Stdio};
        use x11rb::COPY_DEPTH_FROM_PARENT;
        use x11rb::protocol::xproto::{ConfigureWindowAux, CreateWindowAux, PropMode, StackMode};
        use x11rb::wrapper::ConnectionExt as _;

        /// A display of its own, without anybody at it.
        struct Display(Child, String);

        impl Display {
            fn start() -> Self {
                let mut child = Command::new("Xvfb")
                    .args(["-displayfd", "1", "-screen", "0", "800x600x24", "-nolisten", "tcp", "-noreset"])
                    .stdout(Stdio::piped())
                    .stderr(Stdio::null())
                    .spawn()
                    .unwrap();
                let mut line = String::new();
                BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
                Self(child, format!(":{}", line.trim()))
            }

            fn x(&self) -> X {
                X::connect(Some(&self.1)).unwrap()
            }
        }

        impl Drop for Display {
            fn drop(&mut self) {
                self.0.kill().unwrap();
                self.0.wait().unwrap();
            }
        }

        /// A window of one colour (0xRRGGBB).
        fn window(x: &X, title: &str, (left, top, width, height): (i16, i16, u16, u16), colour: u32) -> u32 {
            let id = x.c.generate_id().unwrap();
            let look = CreateWindowAux::new().background_pixel(colour);
            let class = WindowClass::INPUT_OUTPUT;
            x.c.create_window(COPY_DEPTH_FROM_PARENT, id, x.root, left, top, width, height, 0, class, 0, &look).unwrap();
            let name = x.atom("_NET_WM_NAME").unwrap();
            x.c.change_property8(PropMode::REPLACE, id, name, x.atom("UTF8_STRING").unwrap(), title.as_bytes()).unwrap();
            x.c.map_window(id).unwrap();
            x.c.sync().unwrap();
            id
        }

        /// Brightness of the points of a line, each once.
        fn line(frames: &Live, y: u32) -> Vec<u8> {
            let from = (y * frames.width()) as usize;
            let mut seen = frames.frame()[from..from + frames.width() as usize].to_vec();
            seen.dedup();
            seen
        }

        const RED: (u32, u8) = (0xff_0000, 82);
        const BLUE: (u32, u8) = (0x00_00ff, 41);

        #[test]
        fn a_window_is_shown_and_nothing_that_lies_over_it() {
            let display = Display::start();
            let x = display.x();
            let slides = window(&x, "Bài giảng số 3", (100, 100, 320, 240), RED.0);
            let found = list(&display.x()).unwrap();
            assert!(!found[0].window && found[0].size == (800, 600));
            let offered = &found[1];
            assert_eq!((offered.name.as_str(), offered.window, offered.size), ("Bài giảng số 3", true, (320, 240)));
            let mut shown = live(display.x(), &offered.id).unwrap();
            assert_eq!((shown.width(), shown.height(), line(&shown, 120)), (320, 240, vec![RED.1]));
            // Somebody's private message, right over it.
            window(&x, "private", (150, 150, 100, 100), BLUE.0);
            shown.next().unwrap();
            assert_eq!(line(&shown, 100), [RED.1]);
            let mut all = live(display.x(), &found[0].id).unwrap();
            all.next().unwrap();
            assert!(line(&all, 200).ends_with(&[RED.1, BLUE.1, RED.1, 16]), "a whole screen is what one sees: {:?}", line(&all, 200));
            // It becomes larger, goes out of sight, and is closed.
            x.c.configure_window(slides, &ConfigureWindowAux::new().width(400).height(300).stack_mode(StackMode::ABOVE)).unwrap();
            x.c.sync().unwrap();
            shown.next().unwrap();
            assert_eq!((shown.width(), shown.height(), line(&shown, 20)), (400, 300, vec![RED.1]));
            x.c.unmap_window(slides).unwrap();
            x.c.sync().unwrap();
            shown.next().unwrap();
            assert!(!shown.changed() && shown.width() == 400, "it stands still");
            assert_eq!(list(&x).unwrap().len(), 2, "and is not offered any more");
            x.c.destroy_window(slides).unwrap();
            x.c.sync().unwrap();
            assert_eq!(shown.next(), Err(VideoError::Ended));
        }

        #[test]
        fn the_pointer_is_seen_and_what_moves_is_told_apart() {
            let display = Display::start();
            let x = display.x();
            window(&x, "slides", (100, 100, 320, 240), RED.0);
            x.c.warp_pointer(x11rb::NONE, x.root, 0, 0, 0, 0, 700, 500).unwrap();
            x.c.sync().unwrap();
            let id = list(&x).unwrap()[1].id.clone();
            let mut shown = live(display.x(), &id).unwrap();
            shown.next().unwrap();
            assert!(!shown.changed() && shown.frame()[..320 * 240].iter().all(|y| *y == RED.1));
            x.c.warp_pointer(x11rb::NONE, x.root, 0, 0, 0, 0, 250, 220).unwrap();
            x.c.sync().unwrap();
            shown.next().unwrap();
            assert!(shown.changed() && shown.frame()[..320 * 240].iter().any(|y| *y != RED.1));
        }

        #[test]
        fn what_is_not_there_is_refused() {
            let display = Display::start();
            for id in ["screen:none", "window:77", "window:x", "camera:0", ""] {
                assert!(live(display.x(), id).is_err(), "{id}");
            }
            assert!(matches!(X::connect(Some(":7654")), Err(VideoError::NoScreen)));
        }
    }
}

#[cfg(target_os = "linux")]
pub use native::{devices, open};

/// None yet.
#[cfg(not(target_os = "linux"))]
#[must_use]
pub fn devices() -> Vec<ScreenDevice> {
    Vec::new()
}

/// None yet.
#[cfg(not(target_os = "linux"))]
pub fn open(_id: &str) -> Result<Box<dyn super::source::Frames>, super::VideoError> {
    Err(super::VideoError::NoScreen)
}
