app-name = SecureConnect
tagline = A private home for the people you talk to
# onboarding
welcome-register = Create account
welcome-login = Log in
welcome-have-account = I have an account
welcome-new-account = I am new here
field-server = Server
field-server-hint = The address you were given, such as chat.example.org
field-username = Username
field-username-hint = 3 to 32 characters: a–z, 0–9, dot, dash, underscore
field-password = Password
field-password-hint = At least 8 characters. It never leaves this device.
field-passphrase = Passphrase
passphrase-choose-title = Protect this device
passphrase-choose-text = No keyring answers on this computer. Choose a passphrase; everything stored here is encrypted with it. Nobody can restore it for you.
passphrase-choose = Set passphrase
passphrase-unlock-title = Locked
passphrase-unlock-text = Enter the passphrase to open your conversations on this device.
passphrase-unlock = Unlock
keyring-title = The system's keyring does not answer
keyring-text = The key that opens your conversations on this device is in the system's keyring. Unlock it, or log in to your desktop again; nothing is lost.
keyring-again = Try again
keyring-still = It still does not answer.
keylost-title = The key to this device's store is missing
keylost-text = Your conversations are still on this device, encrypted, but the key that opens them is gone. This happens when the system's keyring was reset or the files were copied from elsewhere. Bring the key back and start the app again, or start anew: the old store is set aside, nothing is deleted.
keylost-anew = Set the old store aside and start anew
waiting-title = Approve this device
waiting-text = On another device of yours open Settings, then Devices, and approve this one. Compare the digits first.
waiting-poll = Waiting for approval…
# list
list-title = Conversations
list-new = New conversation
list-empty = No conversations yet. Write to somebody you know.
list-empty-action = New conversation
list-filter = Show
list-filter-all = All
list-filter-unread = Unread
list-filter-direct = People
list-filter-groups = Groups
list-filter-empty = Nothing here.
list-draft = Draft
list-you = You
list-unread = { $count ->
    [one] { $count } unread message
   *[other] { $count } unread messages
}
list-failed = Not sent
list-creating = Being set up…
list-joining = Waiting to join…
list-broken = Secure session broken
list-unreadable = Message that cannot be read yet
yesterday = Yesterday
today = Today
# connection
conn-connecting = Connecting…
conn-catching-up = Catching up…
conn-offline = Offline. What you write is kept and goes out when the connection is back.
conn-logged-out = Your session has ended. Log in again to go on.
conn-retry = Try now
# conversation
conv-none = Choose a conversation, or start a new one.
conv-back = Back
conv-search = Search here
conv-details = Details
conv-members = { $count ->
    [one] { $count } member
   *[other] { $count } members
}
conv-only-you-and = Only you and { $name } can read this conversation.
conv-only-members = Only the members can read this conversation.
conv-verified = Verified
conv-empty = Nothing here yet. Say hello.
conv-left = You are no longer a member. What you have received stays readable.
conv-creating = This conversation is being set up. You can write already.
conv-joining = This device is joining the conversation.
conv-broken = The secure session of this conversation is broken. Reset it to go on; your history stays.
conv-unreadable = { $count ->
    [one] { $count } message could not be read and was requested again.
   *[other] { $count } messages could not be read and were requested again.
}
blocked-text = The safety number with { $name } has changed, usually because they use a new device or set up their account again. Compare it before you send anything important.
blocked-compare = Compare
blocked-accept = Send anyway
new-divider = New
to-newest = To the newest messages
# messages
msg-pending = Waiting to be sent
msg-sent = Sent
msg-read = Read
msg-failed = Not sent
msg-retry = Try again
msg-reply = Reply
msg-reply-to = Reply to { $name }
msg-copy = Copy
msg-quote-missing = Message that is not on this device
msg-unknown = This message needs a newer version of the app.
utd-title = This message cannot be read yet
utd-key_missing = Its key is not on this device. It was requested from the sender and appears here by itself.
utd-out_of_step = This device was out of step with the conversation. The session is being renewed and the message was requested again.
utd-restored_copy = This device was restored from an older copy. The message was requested from the others.
utd-not_joined = It was sent before this device had joined. It was requested from the sender.
utd-malformed = It arrived damaged. The sender was asked for it again.
utd-repair = Repair
cause-IDENTITY_CHANGED = The safety number has changed. Confirm it, then try again.
cause-NOT_A_MEMBER = You are no longer a member.
cause-PAYLOAD_TOO_LARGE = It is too large.
cause-other = The server refused it ({ $code }).
# system lines; $who and $by are names
you = You
sys-created = { $by } started the conversation
sys-created-own = You started the conversation
sys-added = { $by } added { $who }
sys-added-by-own = You added { $who }
sys-added-own = { $by } added you
sys-removed = { $by } removed { $who }
sys-removed-by-own = You removed { $who }
sys-removed-own = { $by } removed you
sys-left = { $who } left
sys-left-own = You left
sys-renamed = { $by } changed the title to “{ $text }”
sys-renamed-by-own = You changed the title to “{ $text }”
sys-device_added = { $who } uses a new device
sys-device_added-own = You use a new device
sys-session_refreshed = { $who } renewed the secure session
sys-session_refreshed-own = You renewed the secure session
sys-room_opened = { $by } opened the voice room
sys-room_opened-by-own = You opened the voice room
sys-session_reset = { $by } reset the secure session for everyone
sys-session_reset-by-own = You reset the secure session for everyone
sys-identity_changed = The safety number with { $who } has changed
sys-gap = { $count ->
    [one] { $count } message from { $who } was held back on the way
   *[other] { $count } messages from { $who } were held back on the way
}
sys-not_added = { $who } could not be added yet: none of their devices can be reached. Try again when they have been online.
sys-refused = A change was refused: { $text }
reason-own_identity = somebody showed another identity for your account
reason-third_person_in_direct = somebody else would have come into this conversation
reason-weaker_suite = the encryption would have become weaker
reason-stranger_in_group = people are in the group whom this device did not see coming in. Reset Secure Session shows who they are
reason-stranger_joined = somebody came in whom no member had added, as far as this device saw. Reset Secure Session shows who it is
reason-device_twice = a device would have been inside twice
reason-reset_not_signed = a reset was not signed by a member
reason-log_hole = the server left out a part of the conversation
reason-IDENTITY_MISMATCH = the server handed out keys that are not that person’s
reason-IDENTITY_CHANGED = a safety number has changed and was not confirmed
reason-FORBIDDEN = your role does not allow it
reason-NOT_A_MEMBER = you are not a member any more
reason-ROLLED_BACK = the server showed an older list of devices than before
# composer
composer-placeholder = Write a message
composer-send = Send
composer-cancel-reply = Cancel reply
composer-too-long = { $over ->
    [one] { $over } character too many
   *[other] { $over } characters too many
}
# new conversation
new-title = New conversation
new-name = Username
new-direct = Write
new-group = Make a group
new-group-title = Title of the group
new-group-add = Add
new-group-members = Members
new-group-create = Create group
new-remove = Remove { $name }
# contact card
card-title = Contact
card-group-title = Group
card-close = Close
safety-title = Safety number
safety-text = Compare these digits with { $name }, in person or by phone. If they are the same, nobody stands between you.
safety-verify = Mark as verified
safety-unverify = Remove the mark
safety-verified = You have verified { $name }.
safety-qr = Code to be scanned by the other device
encryption-pq = Keys are agreed with hybrid post-quantum encryption (experimental).
encryption-classic = Keys are agreed with classic encryption, as the group is large.
group-add = Add a member
group-remove = Remove { $name }
group-rename = Change title
group-make-admin = Make admin
group-make-member = Take admin rights away
group-hand-over = Hand the group over to { $name }
group-hand-over-text = { $name } becomes the owner and you an admin. Only { $name } can give the group back.
group-remove-text = { $name } gets nothing of what is written from now on. What they have received stays with them.
group-leave = Leave group
group-leave-owner = You own this group. Choose a member above and hand it over before you leave.
group-leave-confirm = Leave “{ $title }”
group-leave-text = You stop receiving messages. What you have received stays on this device.
role-OWNER = Owner
role-ADMIN = Admin
role-MEMBER = Member
# search
search-title = Search
search-placeholder = Words, with or without diacritics
search-empty = Nothing found on this device.
search-hint = Searches everything on this device.
search-where = Where
search-everywhere = Everywhere
search-who = By whom
search-anybody = Anybody
search-when = When
search-any-time = Any time
search-week = Last 7 days
search-month = Last 30 days
search-year = Last year
search-date = Go to a date
# settings
settings-title = Settings
settings-appearance = Appearance
settings-theme = Colours
theme-system = As the system
theme-light = Light
theme-dark = Dark
settings-language = Language
language-system = As the system
settings-density = Smaller rows in the list
settings-text = Text size
settings-security = Security
settings-protection-keyring = The key of this device's store is in the system's keyring.
settings-protection-passphrase = The key of this device's store is protected by your passphrase.
settings-protection-both = The key of this device's store is in the system's keyring; your passphrase opens it too.
settings-passphrase-add = Add a passphrase
settings-passphrase-change = Change passphrase
settings-passphrase-current = Current passphrase
settings-passphrase-new = New passphrase
settings-passphrase-repeat = New passphrase, again
settings-passphrase-differs = The two are not the same.
settings-passphrase-forgotten = Forgotten? Leave it empty: the keyring opens the store too.
settings-passphrase-done = The passphrase is set. Keep it somewhere safe: nobody can restore it.
settings-devices = Devices
settings-device-own = This device
settings-device-approve = Approve
settings-device-enter = Enter the 30 digits the new device shows
settings-device-revoke = Remove { $name }
settings-device-revoke-text = { $name } is logged out and gets nothing that is written from now on. To use it again it has to be linked anew.
settings-device-seen = Last connected { $time }
settings-account = Account
settings-keys = Keyboard
# reset
reset-title = Reset Secure Session
reset-intro = When messages cannot be read or sent, renew the encryption. Your history stays readable on this device.
reset-open = Reset Secure Session
reset-scope = What to reset
reset-scope-device = This device, in one conversation
reset-scope-device-text = This device gets fresh keys. The others see one line.
reset-scope-conversation = One conversation, for everyone
reset-scope-conversation-text = All members get fresh keys. Use it when the first did not help.
reset-scope-identity = My identity
reset-scope-identity-text = A new identity for your account. Safety numbers change for everyone you talk to, and your other devices are removed.
reset-conversation = Conversation
reset-next = Show what will happen
reset-before = What will happen
reset-before-conversations = { $count ->
    [one] { $count } conversation gets fresh keys
   *[other] { $count } conversations get fresh keys
}
reset-before-people = { $count ->
    [0] Nobody is told
    [one] { $count } person is told
   *[other] { $count } people are told
}
reset-before-unreadable = { $count ->
    [0] No unreadable message waits
    [one] { $count } unreadable message is requested again
   *[other] { $count } unreadable messages are requested again
}
reset-before-newcomers = Came in while this device could not follow, and will read what is written from now on: { $names }. Go on only if you expect them here.
reset-before-safety-yes = Safety numbers change; verified marks have to be set again
reset-before-safety-no = Safety numbers and verified marks stay
reset-before-history = Your history stays readable
reset-do-device = Reset this device's session
reset-do-conversation = Reset the session for everyone
reset-do-identity = Reset my identity
reset-working = Resetting…
reset-after = What was done
reset-after-repaired = { $count ->
    [one] { $count } conversation works again
   *[other] { $count } conversations work again
}
reset-after-waiting = { $count ->
    [one] { $count } conversation still waits; the app goes on trying
   *[other] { $count } conversations still wait; the app goes on trying
}
reset-after-recovered = { $count ->
    [0] No message had to be recovered
    [one] { $count } message is readable again
   *[other] { $count } messages are readable again
}
reset-after-requested = { $count ->
    [one] { $count } message is still being requested
   *[other] { $count } messages are still being requested
}
done = Done
cancel = Cancel
close = Close
loading = Loading…
# keys
keys-goto = Go to anything
keys-search = Search here
keys-next = Next or previous conversation
keys-reply = Reply to the last message
keys-close = Close one level
keys-help = This list
# errors
error-OFFLINE = The server cannot be reached. Check the address and your connection.
error-INVALID_CREDENTIALS = The username or the password is wrong.
error-USERNAME_TAKEN = That username is taken. Choose another one.
error-BAD_USERNAME = A username has 3 to 32 characters: a–z, 0–9, dot, dash and underscore.
error-BAD_SERVER = The server address starts with https://.
error-WEAK_PASSWORD = A password has at least 8 characters.
error-WRONG_KEY = The passphrase is wrong.
error-KEYRING_SILENT = The system's keyring does not answer. Unlock it and try again.
error-NOT_FOUND = There is no such user.
error-SELF = That is you.
error-RATE_LIMITED = Too many tries. Wait a moment.
error-REGISTRATION_CLOSED = This server takes no new accounts.
error-IDENTITY_CHANGED = The safety number has changed. Confirm it first.
error-IDENTITY_MISMATCH = The server answered with somebody else's keys. Nothing was sent.
error-ROLLED_BACK = The server showed an older list of devices than before. Nothing was sent.
error-TOO_LONG = The message is longer than 10,000 characters.
error-DISK_FULL = The disk is full. Nothing was changed.
error-IN_USE = SecureConnect is open already with this profile.
error-WRONG_CODE = The code is not the one the new device shows. Do not approve it.
error-FORBIDDEN = You may not do that here.
error-BAD_TITLE = A title has 1 to 120 characters.
error-PASSWORD_NEEDED = Your password is needed for that.
error-other = Something went wrong ({ $code }).

# calls; $name is the other person
call-region = Call
call-start = Call { $name }
call-start-video = Call { $name } with video
call-open = Show the conversation with { $name }
call-incoming = { $kind ->
    [video] Incoming video call
   *[voice] Incoming voice call
}
call-calling = Calling…
call-connecting = Connecting…
call-reconnecting = Reconnecting… Nothing is sent until the connection is back.
call-active = Connected
call-accept = Answer
call-accept-video = Answer with video
call-decline = Decline
call-hang-up = Hang up
call-again = Call again
call-mute = Turn the microphone off
call-unmute = Turn the microphone on
call-camera-on = Show yourself
call-camera-off = Stop showing yourself
screen-show = Show your screen
screen-hide = Stop showing your screen
screen-title = What do you want to show?
screen-about = Everybody here sees it until you stop. Of a window, only that window is seen, also when something lies over it.
screen-screens = Screens
screen-windows = Windows
screen-whole = The whole screen
screen-looking = Looking for screens and windows…
screen-none = No screen can be shown from here. Today it works on Linux with X11 only.
screen-own = Your screen
screen-shown = you show your screen
call-pictures = Pictures of the call
call-pictures-small = Make the pictures small
call-pictures-large = Make the pictures large
call-picture-rate = Room for your picture
call-freezes = Their picture stood still
call-kbit = { $n } kbit/s
call-details = Call details
call-none = There is no call now.
call-ended-hung_up = The call has ended.
call-ended-cancelled = You cancelled the call.
call-ended-declined = The call was declined.
call-ended-busy = { $name } is in another call.
call-ended-no_answer = { $name } did not answer.
call-ended-missed = You missed a call from { $name }.
call-ended-elsewhere = The call was taken on another of your devices.
call-ended-no_path = No connection came about between your two devices. A network on the way blocks calls.
call-ended-connection_lost = The connection broke and did not come back.
call-ended-no_microphone = A device has no microphone that may be used.
call-ended-no_speaker = A device has nothing to play sound on.
call-ended-failed = The call could not be carried.
call-check-text = Read these numbers to each other. If { $name } sees the same ones, nobody is listening in between.
call-settings = Calls
call-microphone = Microphone
call-speaker = Speaker
call-camera = Camera
call-camera-test = See yourself
call-camera-test-stop = Close the camera
call-device-system = As the system
call-device-gone = A device that is not connected
call-level = How loud the microphone is
call-test = Make a test call
call-test-text = Speak: two seconds later you hear yourself.
call-test-stop = End the test call
call-relay = Always through a relay
call-relay-text = The other person does not learn your internet address. Calls may sound a little later.
call-path = Path
call-path-unknown = –
call-path-direct = From device to device
call-path-relayed = Through a relay
call-path-unit = Through the server
call-path-unit-tcp = Through the server, over TCP
call-rtt = Round trip
call-delay = Held back to even out the network
call-loss = Lost packets
call-rate = Data
call-ms = { $n } ms
call-loss-both = { $in } % in, { $out } % out
call-rate-both = { $in } kbit/s in, { $out } out
sys-call-ringing = { $by } is calling
sys-call-ringing-own = You are calling
sys-call-running = { $kind ->
    [video] Video call
   *[voice] Voice call
}
sys-call-ended = { $kind ->
    [video] Video call, { $duration }
   *[voice] Voice call, { $duration }
}
sys-call-missed = { $kind ->
    [video] Missed video call from { $by }
   *[voice] Missed voice call from { $by }
}
sys-call-missed-own = { $kind ->
    [video] Video call, no answer
   *[voice] Voice call, no answer
}
sys-call-declined = { $kind ->
    [video] Declined video call
   *[voice] Declined voice call
}
sys-call-busy = { $kind ->
    [video] Video call from { $by }, you were in another call
   *[voice] Voice call from { $by }, you were in another call
}
sys-call-busy-own = { $kind ->
    [video] Video call, the line was busy
   *[voice] Voice call, the line was busy
}
sys-call-failed = { $kind ->
    [video] Video call, no connection came about
   *[voice] Voice call, no connection came about
}
error-NO_CAMERA = No camera was found. Plug one in and try again.
error-SCREEN_FAILED = That screen or window is not shown any more: it was closed, or cannot be read.
error-CAMERA_FAILED = The camera does not work. Another program may be using it.
error-POOR_PATH = The connection carries only the sound right now. Your picture is tried again by itself.
error-IN_CALL = There is a call already. End it first.
error-NO_MICROPHONE = There is no microphone. Connect one, or choose another in the settings.
error-MICROPHONE_DENIED = The system does not let this app use the microphone. Allow it in the system's settings.
error-NO_SPEAKER = There is nothing to play sound on. Connect headphones or a speaker, or choose another in the settings.

# meeting rooms
room-title = Meeting room
room-safe = Only people with this link can see and hear what happens inside. The server cannot.
room-name = Your name
room-enter = Come in
room-joining = One moment…
room-waiting = The host has been told that you are here. Please wait.
room-reconnecting = Reconnecting… Nothing is sent until the connection is back.
room-leave = Leave
room-controls = What you send
room-you = You
room-member = A member
room-screen-of = Screen of { $name }
room-microphone-off = The microphone is off
room-hand-up = The hand is up
room-weak = Weak connection
room-hand = Raise your hand
room-hand-down = Lower your hand
room-camera-on = Turn the camera on
room-camera-off = Turn the camera off
room-screen = Show your screen
room-screen-stop = Stop showing your screen
room-no-microphone = The microphone cannot be used. Allow it in the browser, or come in without it.
room-no-camera = The camera cannot be used. Allow it in the browser, or stay without a picture.
room-garbled = Somebody cannot be heard or seen: one of you has a link with another key. Ask for the link again.
room-chat = Chat
room-chat-empty = What is written here is only for those inside, and is not kept.
room-chat-write = Write to everybody
room-chat-failed = That was not sent. Try again.
room-cause-incomplete = This link is not complete. Ask for it again, and copy all of it.
room-cause-members_only = This room is for people with an account. Open the link in the app.
room-cause-unreachable = The server cannot be reached. Check your connection and try again.
room-cause-NOT_FOUND = There is no such room, or it has been closed.
room-cause-client_initiated = You have left the room.
room-cause-participant_removed = The host has taken you out of the room.
room-cause-room_deleted = The room has been closed.
room-cause-duplicate_identity = You have come in on another page.
room-cause-lost = The connection broke and did not come back.
error-ROOM_FULL = Every seat of the room is taken. Try again when somebody has left.
error-ROOM_LOCKED = The room is locked. Ask its host to let you in.
error-ROOM_REFUSED = The host does not let you in.
room-chat-send = Send

# rooms in the app; $name is a person or a conversation, $count how many
room-region = Room
room-join = Come into the voice room of { $name }
room-join-short = Join
room-inside = { $count ->
    [one] One person is inside
   *[other] { $count } people are inside
 }
room-faces = Inside: { $names }
room-phase-joining = Coming in…
room-phase-waiting = Waiting for the host to let you in…
room-phase-reconnecting = Reconnecting… Nothing is sent until the connection is back.
room-over-left = You have left the room.
room-over-removed = You were taken out of the room.
room-over-closed = The room has been closed.
room-over-elsewhere = You came in again with this device.
room-over-refused = You could not come in.
room-over-lost = The connection to the room broke and did not come back.
room-details = Who is inside, chat and settings of the room
room-pictures = What the people in the room show
room-pictures-hide = Hide the pictures, only listen
room-pictures-show = Show the pictures
room-layout-grid = All of the same size
room-layout-speaker = Whoever speaks large
room-pin = Keep { $name } large
room-unpin = No longer keep large
room-people = People in the room
room-guest = guest, without an account
room-person-garbled = cannot be heard: another key
room-waits = { $count ->
    [one] { $name } waits to be let in.
   *[other] { $name } and others wait to be let in.
 }
room-waits-guest = { $name } waits to be let in. A guest without an account: nobody vouches for the name.
room-admit = Let in
room-refuse = Turn away
room-host-mute = Turn off the microphone of { $name }
room-host-remove = Take { $name } out of the room
room-link = Link of the room
room-link-copy = Copy the link
room-link-copied = Copied
room-lock = Lock the room
room-unlock = Open the room
room-lobby-on = Let people wait first
room-lobby-off = Let people in at once
room-check-text = Whoever sees the same numbers is in the same room with the same key: nobody listens in between.
room-none = You are in no room.
meeting-title = Meeting rooms
meeting-link = Link of a room
meeting-new = A new room
meeting-seats = Seats
meeting-guests = People without an account may come in with a browser
meeting-lobby = People wait until I let them in
meeting-create = Make a room
meeting-made = Rooms you have made
meeting-elsewhere = Made on another device, which has its link
meeting-state = { $inside } of { $seats } inside
meeting-close = Close this room for good
meeting-close-sure = Close this room
error-IN_ROOM = You are in a room already. Leave it first.
error-NO_SESSION = There is no secure session in this conversation yet. Wait until you are connected, and try again.
error-NOT_IN_ROOM = You are in no room.
error-BAD_LINK = This is no complete link of a meeting room. Copy all of it.
error-NOT_SENT = That was not sent. Try again.
