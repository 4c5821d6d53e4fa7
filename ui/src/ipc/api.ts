// Typed commands. One function a command; the types come from the app crate.
import type { AppState } from './bindings/AppState';
import type { AudioDevicesView } from './bindings/AudioDevicesView';
import type { CallView } from './bindings/CallView';
import type { ContactView } from './bindings/ContactView';
import type { ConversationView } from './bindings/ConversationView';
import type { DeviceView } from './bindings/DeviceView';
import type { FacetsView } from './bindings/FacetsView';
import type { Filter } from './bindings/Filter';
import type { HostActionKind } from './bindings/HostActionKind';
import type { InsideView } from './bindings/InsideView';
import type { ListItem } from './bindings/ListItem';
import type { MeetingView } from './bindings/MeetingView';
import type { PreviewView } from './bindings/PreviewView';
import type { ReportView } from './bindings/ReportView';
import type { RoomView } from './bindings/RoomView';
import type { Row } from './bindings/Row';
import type { SafetyView } from './bindings/SafetyView';
import type { Scope } from './bindings/Scope';
import type { ScreenView } from './bindings/ScreenView';
import type { Settings } from './bindings/Settings';
import type { TimelineUpdate } from './bindings/TimelineUpdate';
import type { WantedPicture } from './bindings/WantedPicture';
import { host } from './host';

export const api = {
  state: () => host.call({ type: 'state' }) as Promise<AppState>,
  unlock: (passphrase: string) => host.call({ type: 'unlock', passphrase }) as Promise<AppState>,
  openAgain: () => host.call({ type: 'open_again' }) as Promise<AppState>,
  setPassphrase: (current: string | null, fresh: string) =>
    host.call({ type: 'set_passphrase', current, new: fresh }) as Promise<AppState>,
  startAnew: () => host.call({ type: 'start_anew' }) as Promise<AppState>,
  setSettings: (settings: Settings) => host.call({ type: 'set_settings', settings }) as Promise<AppState>,
  register: (server: string, username: string, password: string) =>
    host.call({ type: 'register', server, username, password }) as Promise<AppState>,
  login: (server: string, username: string, password: string) =>
    host.call({ type: 'login', server, username, password }) as Promise<AppState>,
  pollLink: () => host.call({ type: 'poll_link' }) as Promise<AppState>,
  conversations: () => host.call({ type: 'conversations' }) as Promise<ListItem[]>,
  findUser: (name: string) => host.call({ type: 'find_user', name }) as Promise<ContactView>,
  direct: (user: string) => host.call({ type: 'direct', user }) as Promise<string>,
  createGroup: (title: string, members: string[]) => host.call({ type: 'create_group', title, members }) as Promise<string>,
  addMembers: (conversation: string, users: string[]) => host.call({ type: 'add_members', conversation, users }),
  removeMembers: (conversation: string, users: string[]) => host.call({ type: 'remove_members', conversation, users }),
  rename: (conversation: string, title: string) => host.call({ type: 'rename', conversation, title }),
  setRole: (conversation: string, user: string, role: 'OWNER' | 'ADMIN' | 'MEMBER') => host.call({ type: 'set_role', conversation, user, role }),
  leave: (conversation: string) => host.call({ type: 'leave', conversation }),
  conversation: (conversation: string) => host.call({ type: 'conversation', conversation }) as Promise<ConversationView>,
  openTimeline: (conversation: string, around: number | null) =>
    host.call({ type: 'open_timeline', conversation, around }) as Promise<TimelineUpdate>,
  pageTimeline: (older: boolean) => host.call({ type: 'page_timeline', older }),
  timelineEnd: () => host.call({ type: 'timeline_end' }),
  closeTimeline: () => host.call({ type: 'close_timeline' }),
  send: (conversation: string, text: string, reply_to: string | null) =>
    host.call({ type: 'send', conversation, text, reply_to }) as Promise<Row>,
  retry: (row: number) => host.call({ type: 'retry', row }),
  setDraft: (conversation: string, text: string) => host.call({ type: 'set_draft', conversation, text }),
  markRead: (conversation: string, seq: number) => host.call({ type: 'mark_read', conversation, seq }),
  search: (query: string, filter: Filter) => host.call({ type: 'search', query, filter }) as Promise<Row[]>,
  facets: (query: string, filter: Filter) => host.call({ type: 'facets', query, filter }) as Promise<FacetsView>,
  rowAt: (conversation: string, time: number) => host.call({ type: 'row_at', conversation, time }) as Promise<number | null>,
  safetyNumber: (user: string) => host.call({ type: 'safety_number', user }) as Promise<SafetyView>,
  setVerified: (user: string, verified: boolean, number: string) => host.call({ type: 'set_verified', user, verified, number }),
  acceptIdentity: (user: string) => host.call({ type: 'accept_identity', user }),
  devices: () => host.call({ type: 'devices' }) as Promise<DeviceView[]>,
  approveDevice: (device: string, code: string) => host.call({ type: 'approve_device', device, code }),
  revokeDevice: (device: string) => host.call({ type: 'revoke_device', device }),
  previewReset: (conversation: string | null, scope: Scope) =>
    host.call({ type: 'preview_reset', conversation, scope }) as Promise<PreviewView>,
  reset: (conversation: string | null, scope: Scope, password: string | null, accept: string[]) =>
    host.call({ type: 'reset', conversation, scope, password, accept }) as Promise<ReportView>,
  startCall: (conversation: string, video: boolean) => host.call({ type: 'start_call', conversation, video }) as Promise<string>,
  acceptCall: (video: boolean) => host.call({ type: 'accept_call', video }),
  callCamera: (on: boolean) => host.call({ type: 'call_camera', on }),
  callScreen: (source: string | null) => host.call({ type: 'call_screen', source }),
  screens: () => host.call({ type: 'screens' }) as Promise<ScreenView[]>,
  hangUp: () => host.call({ type: 'hang_up' }),
  muteCall: (muted: boolean) => host.call({ type: 'mute_call', muted }),
  currentCall: () => host.call({ type: 'current_call' }) as Promise<CallView | null>,
  audioDevices: () => host.call({ type: 'audio_devices' }) as Promise<AudioDevicesView>,
  testCall: (on: boolean) => host.call({ type: 'test_call', on }),
  testCamera: (on: boolean) => host.call({ type: 'test_camera', on }),
  createRoom: (seats: number, lobby: boolean, guests: boolean) => host.call({ type: 'create_room', seats, lobby, guests }) as Promise<MeetingView>,
  meetings: () => host.call({ type: 'meetings' }) as Promise<MeetingView[]>,
  enterRoom: (conversation: string | null, link: string | null) => host.call({ type: 'enter_room', conversation, link, name: '', muted: false, video: false }),
  showPictures: (pictures: WantedPicture[], decoded: boolean) => host.call({ type: 'show_pictures', pictures, decoded }),
  pictureDrawn: () => host.call({ type: 'picture_drawn' }),
  picturesLost: (identity: string, screen: boolean) => host.call({ type: 'pictures_lost', identity, screen }),
  leaveRoom: () => host.call({ type: 'leave_room' }),
  muteRoom: (muted: boolean) => host.call({ type: 'mute_room', muted }),
  roomCamera: (on: boolean) => host.call({ type: 'room_camera', on }),
  roomScreen: (source: string | null) => host.call({ type: 'room_screen', source }),
  raiseHand: (up: boolean) => host.call({ type: 'raise_hand', up }),
  roomChat: (text: string) => host.call({ type: 'room_chat', text }),
  currentRoom: () => host.call({ type: 'current_room' }) as Promise<RoomView | null>,
  inside: (conversation: string) => host.call({ type: 'inside', conversation }) as Promise<InsideView>,
  changeRoom: (room: string, change: { locked?: boolean; lobby?: boolean }) =>
    host.call({ type: 'change_room', room, seats: null, locked: change.locked ?? null, lobby: change.lobby ?? null, guests: null }),
  closeRoom: (room: string) => host.call({ type: 'close_room', room }),
  answerLobby: (room: string, ticket: string, admit: boolean) => host.call({ type: 'answer_lobby', room, ticket, admit }),
  hostAction: (room: string, identity: string, action: HostActionKind) => host.call({ type: 'host_action', room, identity, action }),
  networkChanged: () => host.call({ type: 'network_changed' }),
};

/** The code of whatever a command was refused with. */
export function codeOf(error: unknown): string {
  return typeof error === 'object' && error !== null && 'code' in error ? String(error.code) : 'INTERNAL';
}
