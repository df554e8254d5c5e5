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
  return (sample) => {
    if (!sign || sample.answered || sample.consoleBytes !== sign.consoleBytes) sign = sample;
    const quietMs = sample.atMs - sign.atMs;
    const cpuMs = sample.cpuMs - sign.cpuMs;
    const starved = sample.waitedMs - sign.waitedMs >= quietMs * STARVED_SHARE;
    if (quietMs >= IDLE_MS && cpuMs < quietMs * IDLE_SHARE && !starved) {
      return `did nothing for ${Math.round(quietMs / 1000)} s`;
    }
    if (cpuMs >= SPINNING_CPU_MS) return `computed for ${Math.round(cpuMs / 1000)} s without a word`;
    return undefined;
  };
}
