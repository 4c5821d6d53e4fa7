// A guest's stay in a meeting room: the door, the room, what is heard and seen. Media and chat are encrypted with the key in the
// link's fragment, which no request carries.
import {
  ConnectionQuality,
  ConnectionState,
  DisconnectReason,
  Encryption_Type,
  ExternalE2EEKeyProvider,
  type Participant,
  Room,
  RoomEvent,
  Track,
} from 'livekit-client';
import E2EEWorker from 'livekit-client/e2ee-worker?worker';

export type Phase = 'looking' | 'door' | 'asking' | 'waiting' | 'joining' | 'inside' | 'reconnecting' | 'left' | 'refused';

export type Person = { identity: string; name: string; own: boolean; speaks: boolean; microphone: boolean; hand: boolean; weak: boolean; camera?: Track; screen?: Track };
export type Line = { id: number; name: string; own: boolean; text: string };

const CHAT = 'chat';
/** How often somebody in the lobby asks. */
const ASK_MS = 2_000;
/** A message of the chat has at most this many characters. */
const CHAT_CHARS = 2_000;
const LINES = 500;

class Refused extends Error {
  constructor(readonly code: string) {
    super(code);
  }
}

async function ask(path: string, body?: unknown): Promise<Record<string, unknown>> {
  const request = body === undefined ? {} : { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) };
  const response = await fetch(path, request);
  const answer = (await response.json()) as Record<string, unknown>;
  if (!response.ok) throw new Refused(String(answer.code ?? 'INTERNAL'));
  return answer;
}

export class Guest {
  phase = $state<Phase>('looking');
  /** Why one is not inside: an error code, or a cause of the end. */
  cause = $state('');
  people = $state.raw<Person[]>([]);
  chat = $state.raw<Line[]>([]);
  microphone = $state(true);
  camera = $state(true);
  screen = $state(false);
  hand = $state(false);
  /** A device that could not be used. */
  trouble = $state('');
  /** Somebody's media cannot be decrypted: their link has another key, or ours has. */
  garbled = $state(false);
  readonly id: string;
  private readonly key: string;
  private room: Room | undefined;
  private lines = 0;
  /** Counts the times one has asked: an earlier one that comes back late is over. */
  private turn = 0;
  private worker: Worker | undefined;
  private ticket: string | undefined;

  constructor(url = location) {
    this.id = /^\/r\/([0-9a-f-]{36})$/.exec(url.pathname)?.[1] ?? '';
    this.key = url.hash.slice(1);
  }

  /** What is behind the link. */
  async look(): Promise<void> {
    if (!this.id || this.key.length < 22) return this.refuse('incomplete');
    try {
      const room = await ask(`/v1/rooms/${this.id}`);
      if (room.guests !== true) return this.refuse('members_only');
      this.phase = 'door';
    } catch (e) {
      this.refuse(e instanceof Refused ? e.code : 'unreachable');
    }
  }

  async enter(name: string): Promise<void> {
    const turn = (this.turn += 1);
    this.phase = 'asking';
    this.cause = '';
    try {
      for (;;) {
        const answer = await ask(`/v1/rooms/${this.id}/token`, { guest_name: name, ticket: this.ticket });
        if (turn !== this.turn) return;
        if (answer.state === 'ready') return await this.join(String(answer.token), String(answer.url));
        this.ticket = String(answer.ticket);
        this.phase = 'waiting';
        await new Promise((wait) => setTimeout(wait, ASK_MS));
        // Whoever went away in the meantime does not ask on.
        if (turn !== this.turn) return;
      }
    } catch (e) {
      if (turn !== this.turn) return;
      await this.room?.disconnect();
      this.worker?.terminate();
      this.ticket = undefined;
      this.phase = 'door';
      this.cause = e instanceof Refused ? e.code : 'unreachable';
    }
  }

  stopWaiting(): void {
    this.turn += 1;
    this.ticket = undefined;
    this.phase = 'door';
  }

  private async join(token: string, url: string): Promise<void> {
    this.phase = 'joining';
    const keyProvider = new ExternalE2EEKeyProvider();
    await keyProvider.setKey(this.key);
    this.worker = new E2EEWorker();
    this.hand = this.screen = this.garbled = false;
    this.chat = [];
    const room = new Room({
      encryption: { keyProvider, worker: this.worker },
      adaptiveStream: true,
      dynacast: true,
      singlePeerConnection: false,
    });
    this.room = room;
    this.listen(room);
    await room.setE2EEEnabled(true);
    await room.connect(url || location.origin.replace(/^http/, 'ws'), token);
    this.phase = 'inside';
    await this.use('microphone', this.microphone);
    await this.use('camera', this.camera);
    this.draw();
  }

  private listen(room: Room): void {
    const draw = () => this.draw();
    for (const event of [
      RoomEvent.ParticipantConnected,
      RoomEvent.ParticipantDisconnected,
      RoomEvent.TrackSubscribed,
      RoomEvent.TrackUnsubscribed,
      RoomEvent.TrackMuted,
      RoomEvent.TrackUnmuted,
      RoomEvent.LocalTrackPublished,
      RoomEvent.LocalTrackUnpublished,
      RoomEvent.ActiveSpeakersChanged,
      RoomEvent.ParticipantAttributesChanged,
      RoomEvent.ConnectionQualityChanged,
    ] as const)
      room.on(event, draw);
    room.on(RoomEvent.TrackSubscribed, (track, publication) => {
      // What is not encrypted is neither played nor shown.
      if (!publication.isEncrypted) {
        this.garbled = true;
        publication.setSubscribed(false);
        return;
      }
      if (track.kind !== Track.Kind.Audio) return;
      const ear = track.attach();
      ear.hidden = true;
      document.body.append(ear);
    });
    room.on(RoomEvent.TrackUnsubscribed, (track) => track.detach().forEach((e) => e.remove()));
    room.on(RoomEvent.EncryptionError, () => (this.garbled = true));
    room.on(RoomEvent.ConnectionStateChanged, (state) => {
      if (state === ConnectionState.Reconnecting || state === ConnectionState.SignalReconnecting) this.phase = 'reconnecting';
      if (state === ConnectionState.Connected) this.phase = 'inside';
    });
    room.on(RoomEvent.Disconnected, (reason) => {
      this.phase = 'left';
      this.cause = reason === undefined ? 'lost' : (DisconnectReason[reason] ?? 'lost').toLowerCase();
    });
    room.on(RoomEvent.DataReceived, (bytes, from, _kind, topic, encryption) => {
      if (topic === CHAT && from && encryption === Encryption_Type.GCM) this.say(from.name || from.identity, new TextDecoder().decode(bytes), false);
    });
    // A host may have switched it off: what is shown is what is sent.
    room.on(RoomEvent.TrackMuted, (publication, who) => {
      if (who.isLocal && publication.source === Track.Source.Microphone) this.microphone = false;
      if (who.isLocal && publication.source === Track.Source.Camera) this.camera = false;
    });
  }

  private person(p: Participant): Person {
    const of = (source: Track.Source) => {
      const track = p.getTrackPublication(source);
      return track && !track.isMuted && (p.isLocal || track.isEncrypted) ? track.track : undefined;
    };
    return {
      identity: p.identity,
      name: p.name ?? '',
      own: p.isLocal,
      speaks: p.isSpeaking,
      microphone: p.isMicrophoneEnabled,
      hand: p.attributes.hand === '1',
      weak: [ConnectionQuality.Poor, ConnectionQuality.Lost].includes(p.connectionQuality),
      camera: of(Track.Source.Camera),
      screen: of(Track.Source.ScreenShare),
    };
  }

  private draw(): void {
    const room = this.room;
    if (!room) return;
    // The browser's own button stops sharing too.
    this.screen = room.localParticipant.isScreenShareEnabled;
    this.people = [room.localParticipant, ...room.remoteParticipants.values()].map((p) => this.person(p));
  }

  async use(what: 'microphone' | 'camera' | 'screen', on: boolean): Promise<void> {
    this[what] = on;
    const me = this.room?.localParticipant;
    if (!me) return;
    this.trouble = '';
    try {
      if (what === 'microphone') await me.setMicrophoneEnabled(on);
      else if (what === 'camera') await me.setCameraEnabled(on);
      else await me.setScreenShareEnabled(on);
    } catch {
      // Denied, missing, or the picker of screens was closed.
      this[what] = false;
      if (what !== 'screen') this.trouble = what;
    }
    this.draw();
  }

  async raise(up: boolean): Promise<void> {
    this.hand = up;
    await this.room?.localParticipant.setAttributes({ hand: up ? '1' : '' });
    this.draw();
  }

  async send(text: string): Promise<void> {
    const said = text.trim().slice(0, CHAT_CHARS);
    if (!said || !this.room) return;
    await this.room.localParticipant.publishData(new TextEncoder().encode(said), { reliable: true, topic: CHAT });
    this.say(this.room.localParticipant.name ?? '', said, true);
  }

  private say(name: string, text: string, own: boolean): void {
    this.lines += 1;
    this.chat = [...this.chat, { id: this.lines, name, own, text: text.slice(0, CHAT_CHARS) }].slice(-LINES);
  }

  async leave(): Promise<void> {
    await this.room?.disconnect();
    this.worker?.terminate();
    this.phase = 'left';
    this.cause = 'client_initiated';
  }

  private refuse(cause: string): void {
    this.phase = 'refused';
    this.cause = cause;
  }
}
