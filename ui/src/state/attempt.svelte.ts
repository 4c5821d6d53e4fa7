import { codeOf } from '../ipc/api';

/** Something that may fail, for a form: whether it is under way, and the code of what went wrong. */
export class Attempt {
  busy = $state(false);
  error = $state<string | null>(null);

  async run(f: () => Promise<unknown>): Promise<void> {
    this.busy = true;
    this.error = null;
    try {
      await f();
    } catch (e) {
      this.error = codeOf(e);
    } finally {
      this.busy = false;
    }
  }
}
