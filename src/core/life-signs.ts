/** Whether a guest that is being started is still at it, from what is seen of it on the host. */

export interface LifeSample {
  /** `ms` on any clock that goes on steadily */
  atMs: number;
  /** `ms` of processor time its VMM has used */
  cpuMs: number;
  /** `ms` its VMM has waited for a processor of the host */
  waitedMs: number;
  consoleBytes: number;
  /** whether its network or its SSH server said something, be it no */
  answered: boolean;
}

/** The initrd waits for nothing longer than 5 s, and a server that accepts a connection says so at once. */
const IDLE_MS = 20_000;
/** A VMM whose guest has nothing to do uses less than a hundredth of a processor. */
const IDLE_SHARE = 0.02;
/** One that wants a processor of a busy host waits nearly all the time; one that wakes up now and then, a little. */
const STARVED_SHARE = 0.5;
/** A first login takes an emulated guest 4 s of processor time, whatever else the host does. */
const SPINNING_CPU_MS = 90_000;

/**
 * A watch to be asked with one sample after the other.
 * @returns what is wrong with a guest that shows no sign of life, in words that follow its name; undefined while it may be well
 */
export function createLifeWatch(): (sample: LifeSample) => string | undefined {
  let sign: LifeSample | undefined;
  // what was seen since the last sign, the oldest not newer than the time a guest may be idle: what it computed before counts no more
  let quiet: LifeSample[] = [];
  return (sample) => {
    if (!sign || sample.answered || sample.consoleBytes !== sign.consoleBytes) {
      sign = sample;
      quiet = [];
    }
    quiet.push(sample);
    while (quiet[1] !== undefined && sample.atMs - quiet[1].atMs >= IDLE_MS) quiet.shift();
    const [from = sample] = quiet;
    const idleMs = sample.atMs - from.atMs;
    const starved = sample.waitedMs - from.waitedMs >= idleMs * STARVED_SHARE;
    if (idleMs >= IDLE_MS && sample.cpuMs - from.cpuMs < idleMs * IDLE_SHARE && !starved) {
      return `did nothing for ${Math.round(idleMs / 1000)} s`;
    }
    const cpuMs = sample.cpuMs - sign.cpuMs;
    if (cpuMs >= SPINNING_CPU_MS) return `computed for ${Math.round(cpuMs / 1000)} s without a word`;
    return undefined;
  };
}
