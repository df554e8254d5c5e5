/** Guests that hang in the rig by the known fault, watched from outside: nothing runs there for it while there is none. */
import { hangIn, TRACING, watchScript } from './hang-trace.ts';
import type { Rig } from './rig.ts';

const LIMIT_MS = 60_000;
/** More than what a guest that hangs is known by. */
const KEPT_CHARACTERS = 128 * 1024;

export class HangWatch {
  #evidence: string | undefined;
  #trace = '';
  readonly #rig: Rig;
  #reader: Disposable | undefined;
  /** thread of a guest's processor whose VMM has been killed */
  #ended: number | undefined;

  private constructor(rig: Rig) {
    this.#rig = rig;
  }

  /** Watches until it is disposed of, and ends guests that hang. */
  static async begin(rig: Rig): Promise<HangWatch> {
    const watch = new HangWatch(rig);
    await rig.shell(watchScript(await rig.shell("grep ' __svm_vcpu_run' /proc/kallsyms", LIMIT_MS)), LIMIT_MS);
    watch.#reader = rig.begin(`exec cat ${TRACING}/trace_pipe`, (text) => watch.#look(text));
    return watch;
  }

  /** What a guest that hung since the last call is known by. */
  seen(): string | undefined {
    const evidence = this.#evidence;
    this.#evidence = undefined;
    this.#trace = '';
    return evidence;
  }

  #look(text: string): void {
    this.#trace = (this.#trace + text).slice(-KEPT_CHARACTERS);
    const hang = hangIn(this.#trace);
    if (hang === undefined || hang.tid === this.#ended) return;
    this.#evidence = hang.evidence;
    this.#ended = hang.tid;
    // whoever waits for it would wait until a limit
    const script = `kill -KILL $(awk '/^Tgid:/ { print $2 }' /proc/${hang.tid}/status)`;
    this.#rig.shell(script, LIMIT_MS).catch(() => {}); // it is gone
  }

  [Symbol.dispose](): void {
    this.#reader?.[Symbol.dispose]();
  }
}
