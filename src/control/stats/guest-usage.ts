/** Memory as guests see it, asked over their open SSH connections, rarely and with patience for none. */
import type { VmRecord } from '../../core/vm.ts';
import { captureFromGuest } from '../../guest/capture.ts';
import { type GuestMemory, MEMINFO_COMMAND, parseMeminfo } from '../../guest/meminfo.ts';
import { expiry } from '../../system/abort.ts';
import type { Guests } from '../host.ts';

export interface GuestUsage {
  /** A running guest's memory, a few seconds old at most; null when it does not tell. Never throws. */
  memory(vm: VmRecord): Promise<GuestMemory | null>;
}

interface Answer {
  memory: GuestMemory | null;
  /** `performance.now()` from which on it is asked again */
  staleAtMs: number;
}

/** Each answer costs an emulated guest a tenth of a second of its processor. */
const FRESH_MS = 5000;
/** A guest that did not answer is left alone: each try may leave a channel open on its connection. */
const SILENT_MS = 60_000;
/** What a sample waits for an answer; one that comes later is in the next sample. */
const PATIENCE_MS = 1500;
const LIMITS = { timeoutMs: 10_000, maxBytes: 16 * 1024 };

export function createGuestUsage(guests: Pick<Guests, 'get'>): GuestUsage {
  const answers = new Map<string, Answer>();
  const asking = new Map<string, Promise<GuestMemory | null>>();

  async function ask(vm: VmRecord, key: string): Promise<GuestMemory | null> {
    let memory: GuestMemory | null = null;
    try {
      const text = await captureFromGuest(await guests.get(vm), MEMINFO_COMMAND, LIMITS);
      memory = (text === undefined ? undefined : parseMeminfo(text)) ?? null;
    } catch {
      // a guest that lets nobody in: its other numbers are known without it
    }
    const now = performance.now();
    for (const [other, { staleAtMs }] of answers) if (staleAtMs < now) answers.delete(other);
    answers.set(key, { memory, staleAtMs: now + (memory ? FRESH_MS : SILENT_MS) });
    return memory;
  }

  return {
    async memory(vm) {
      // an answer from before a restart says nothing about the guest of now
      const key = `${vm.id} ${vm.startedAt}`;
      const known = answers.get(key);
      if (known && performance.now() < known.staleAtMs) return known.memory;
      let pending = asking.get(key);
      if (!pending) {
        pending = ask(vm, key).finally(() => asking.delete(key));
        asking.set(key, pending);
      }
      return (await Promise.race([pending, expiry(PATIENCE_MS)])) ?? null;
    },
  };
}
