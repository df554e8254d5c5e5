/**
 * Guests that stand ready: each has disks and memory of a template, a network device and a VMM. Where processors are emulated the
 * memory is loaded, and the guest has run what every start runs, so that its VMM has translated it. A new VM that begins as the
 * template takes one over, with an identity of its own. Each is a VM of nobody: whatever of it a daemon leaves, the next frees.
 */
import { freemem } from 'node:os';
import type { TemplateRecord } from '../../core/template.ts';
import { messageOf } from '../../errors.ts';
import { MIB } from '../../units.ts';
import { discardBuildVm } from '../builds/build-vm.ts';
import type { Host } from '../host.ts';
import { storeSpace } from '../store/space.ts';
import { costOfTemplate } from '../vm/load-template.ts';
import { NO_STANDBY, type Standby, type StandbyPool } from '../vm/standby.ts';
import { HasHooks, makeReady } from './ready-guest.ts';
import { misfitsOf } from './view.ts';

/** How long nothing may have been asked for: whoever has just started a VM goes on to use it. */
const QUIET_MS = 1000;

/** After one could not be made. */
const AGAIN_MS = 60_000;

/** How often one can fail to be made of a template: it costs a minute of a processor, and what fails thrice will again. */
const TRIES = 3;

/** How often it is looked whether those that stand ready still may: memory becomes short without anybody asking for something. */
const CHECK_MS = 15_000;

/** Left of the host's memory beside what the guest may come to take, and of the store beside storage.min_free. */
const RESERVE_BYTES = 512 * MIB;

/** What a guest does for after it has woken, by itself; each VM would go on with it. */
const SETTLE_MS = 1000;

interface Waiting extends Standby {
  template: string;
}

/** @param quietMs without an operation before one is made; @param settleMs what a guest gets after it has woken */
export function createStandbyPool(host: Host, { quietMs = QUIET_MS, settleMs = SETTLE_MS } = {}): StandbyPool {
  const wanted = host.config.pool.ready;
  if (wanted === 0) return NO_STANDBY;
  /** the longest ready first */
  const waiting = new Set<Waiting>();
  const stop = new AbortController();
  let timer: NodeJS.Timeout | undefined;
  /** of `performance.now()`, when the timer ends, when something was asked for last, and before when none is made */
  let [dueAt, askedAt, notBefore] = [Infinity, -Infinity, -Infinity];
  let working: Promise<void> | undefined;
  let askedMeanwhile = false;
  /** of templates, by their ids */
  const failures = new Map<string, number>();
  /** templates whose guests are not rehearsed */
  const withHooks = new Set<string>();

  const checks = setInterval(() => lookIn(0), CHECK_MS).unref();

  const unfollow = host.events.onEvent(({ type }) => {
    // templates come and go by operations, and so do the VMs that guests become
    if (!type.startsWith('operation.')) return;
    askedAt = performance.now();
    lookIn(quietMs);
  });

  /** One look at a time; the earliest of those that were asked for. */
  function lookIn(ms: number): void {
    if (stop.signal.aborted) return;
    askedMeanwhile = working !== undefined;
    const at = performance.now() + ms;
    if (working || at >= dueAt) return;
    clearTimeout(timer);
    dueAt = at;
    timer = setTimeout(() => {
      dueAt = Infinity;
      askedMeanwhile = false;
      working = look().then((nextMs) => {
        working = undefined;
        if (nextMs !== undefined) lookIn(nextMs);
        else if (askedMeanwhile) lookIn(quietMs);
      });
    }, ms).unref();
  }

  /** @returns after how many `ms` to look again; never rejects */
  async function look(): Promise<number | undefined> {
    try {
      const usable = await giveUpUseless();
      if (host.operations.runningCount() > 0) return quietMs;
      const quiet = askedAt + quietMs - performance.now();
      return quiet > 0 ? quiet : await replenish(usable);
    } catch (error) {
      if (stop.signal.aborted) return undefined;
      host.log.warn({ error: messageOf(error) }, 'no guest could be made ready');
      notBefore = performance.now() + AGAIN_MS;
      return AGAIN_MS;
    }
  }

  /** Frees those that no VM can take over, and all of them when memory is short. @returns the templates there are */
  async function giveUpUseless(): Promise<TemplateRecord[]> {
    const usable = await usableTemplates(host);
    // what stands ready for nobody is given up before somebody lacks it
    const isShort = freemem() < RESERVE_BYTES;
    for (const each of waiting) if (isShort || !usable.some(({ id }) => id === each.template)) await giveUp(each);
    return usable;
  }

  /** Makes one. @returns after how many `ms` there are more to make */
  async function replenish(usable: readonly TemplateRecord[]): Promise<number | undefined> {
    const template = usable.find(({ id }) => (failures.get(id) ?? 0) < TRIES);
    if (!template) return undefined;
    const left = notBefore - performance.now();
    if (left > 0) return left;
    const has = (id: string) => [...waiting].some((each) => each.template === id);
    // each template that was used has its guests, and the one that was used last has one at least
    if (waiting.size >= wanted && has(template.id)) return undefined;
    if (!(await hasRoom(host, template))) return undefined;
    if (waiting.size >= wanted) {
      const last = usable.findLast(({ id }) => has(id));
      const [first] = [...waiting].filter((each) => each.template === last?.id);
      if (first) await giveUp(first);
    }
    const made = await make(template);
    if (!made) return quietMs;
    waiting.add(made);
    void made.launched.ended.then(async () => {
      if (!waiting.has(made)) return;
      host.log.warn({ vm: made.vm.id }, 'the VMM of a guest that stood ready ended');
      await giveUp(made);
      notBefore = performance.now() + AGAIN_MS;
      lookIn(AGAIN_MS);
    });
    return waiting.size < wanted ? quietMs : undefined;
  }

  /** @returns undefined when it has to be made in another way */
  async function make(template: TemplateRecord): Promise<Waiting | undefined> {
    try {
      const standby = await makeReady(
        host,
        template,
        { settleMs, rehearses: !withHooks.has(template.id) },
        stop.signal,
      );
      failures.delete(template.id);
      return { ...standby, template: template.id };
    } catch (error) {
      if (error instanceof HasHooks) {
        withHooks.add(template.id);
        return undefined;
      }
      failures.set(template.id, (failures.get(template.id) ?? 0) + 1);
      throw error;
    }
  }

  async function giveUp(each: Waiting): Promise<void> {
    // no start can take it from now on
    if (waiting.delete(each)) await discard(each);
  }

  /** What cannot be freed is freed by the next daemon. */
  async function discard({ vm }: Standby): Promise<void> {
    await host.agents.drop(vm);
    await discardBuildVm(host, vm).catch((error) =>
      host.log.error({ vm: vm.id, error: messageOf(error) }, 'a guest that stood ready could not be freed'),
    );
  }

  return {
    count: () => ({ ready: waiting.size, wanted }),
    take(template) {
      // no await between finding and taking it: two starts cannot get the same one
      const found = [...waiting].find((each) => each.template === template.id);
      if (!found) return undefined;
      waiting.delete(found);
      const { vm, launched, isLoaded } = found;
      return { vm, launched, isLoaded };
    },
    free: discard,
    begin: () => lookIn(quietMs),
    async close() {
      stop.abort();
      unfollow();
      clearTimeout(timer);
      clearInterval(checks);
      await working;
      const left = [...waiting];
      waiting.clear();
      for (const each of left) await discard(each);
    },
  };
}

/** Templates that a VM could begin as, the one that was used last first. */
async function usableTemplates(host: Host): Promise<TemplateRecord[]> {
  const templates = host.stores.templates.list().toSorted((a, b) => b.usedAt.localeCompare(a.usedAt));
  const why = await Promise.all(templates.map((template) => misfitsOf(host, template)));
  return templates.filter((_, index) => why[index]?.length === 0);
}

async function hasRoom(host: Host, template: TemplateRecord): Promise<boolean> {
  if (freemem() < template.shape.memoryMib * MIB + RESERVE_BYTES) return false;
  const { freeBytes } = await storeSpace(host);
  return freeBytes >= (await costOfTemplate(host, template)) + host.config.storage.minFreeBytes + RESERVE_BYTES;
}
