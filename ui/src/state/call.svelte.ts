// The call there is: applies what the host tells.
import { api } from '../ipc/api';
import type { AudioDevicesView } from '../ipc/bindings/AudioDevicesView';
import type { CallView } from '../ipc/bindings/CallView';
import type { QualityView } from '../ipc/bindings/QualityView';

class CallModel {
  call = $state.raw<CallView | null>(null);
  quality = $state.raw<QualityView | null>(null);
  devices = $state.raw<AudioDevicesView | null>(null);
  /** The test call runs. */
  testing = $state(false);
  /** The pictures are small, over whatever is done meanwhile. */
  small = $state(false);
  /** Seconds of sound, counted on between the host's words. */
  seconds = $state<number | null>(null);
  #began = 0;
  #clock: ReturnType<typeof setInterval> | undefined;

  /** There is a call that is not over. */
  get running(): boolean {
    return this.call !== null && this.call.phase !== 'ended';
  }

  /** Somebody is seen. */
  get pictures(): boolean {
    return this.running && this.call !== null && this.call.phase !== 'incoming' && (this.call.picture || this.call.camera || this.call.screen);
  }

  async start(): Promise<void> {
    this.apply(await api.currentCall());
  }

  apply(call: CallView | null): void {
    this.call = call;
    if (call) this.testing = false;
    if (!this.running && !this.testing) this.quality = null;
    if (!this.running) this.small = false;
    clearInterval(this.#clock);
    this.seconds = call?.seconds ?? null;
    if (this.seconds === null || !this.running) return;
    this.#began = Date.now() - this.seconds * 1000;
    this.#clock = setInterval(() => (this.seconds = Math.floor((Date.now() - this.#began) / 1000)), 500);
  }

  /** Levels that come after the end say nothing. */
  measure(quality: QualityView): void {
    if (this.running || this.testing) this.quality = quality;
  }

  async refreshDevices(): Promise<void> {
    this.devices = await api.audioDevices();
  }

  async test(on: boolean): Promise<void> {
    if (!on) this.quality = null;
    this.testing = on;
    try {
      await api.testCall(on);
    } catch (e) {
      this.testing = false;
      throw e;
    }
  }
}

export const calls = new CallModel();
