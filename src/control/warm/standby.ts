/**
 * Guests that stand ready: a template's memory is loaded, with disks and a network device, and where processors are emulated its
 * guest has run what every start runs, so that its VMM has translated it. A new VM that begins as the template takes one over,
 * with an identity of its own. Each is a VM of nobody: whatever of it a daemon leaves, the next one frees.
 */
import { randomUUID } from 'node:crypto';
import { freemem } from 'node:os';
import type { TemplateRecord } from '../../core/template.ts';
import type { VmRecord } from '../../core/vm.ts';
import { messageOf } from '../../errors.ts';
import { connectVmm } from '../../firecracker/api.ts';
import { setState } from '../../firecracker/requests.ts';
import { runThroughAgent } from '../../guest/run-script.ts';
import { sleep } from '../../system/abort.ts';
import { MIB } from '../../units.ts';
import { admitBuildVm, discardBuildVm } from '../builds/build-vm.ts';
import { findBootFiles } from '../bundles/boot-files.ts';
import type { Host } from '../host.ts';
import { forgetMemory } from '../memory/checkpoint.ts';
import { storeSpace } from '../store/space.ts';
import { costOfTemplate, loadTemplate } from '../vm/load-template.ts';
import { NO_STANDBY, type Standby, type StandbyPool } from '../vm/standby.ts';
import { createTimeline } from '../vm/start-as-new.ts';
import { holdGuest, reachAgent, wakeAgain } from '../vm/wake.ts';
import { vmmSocketOf } from '../vmm.ts';
import { misfitsOf } from './view.ts';

/** How long nothing may have been asked for: whoever has just started a VM goes on to use it. */
const QUIET_MS = 1000;

/** After one could not be made. */
const AGAIN_MS = 60_000;

/** Left of the host's memory beside what the guest may come to take, and of the store beside storage.min_free. */
const RESERVE_BYTES = 512 * MIB;

/** Said in logs of a guest that is no VM yet; it does not have it itself. */
const NAME = 'standby';

/** What each VM runs first. Twice: what was interrupted once was not translated as a whole. */
const REHEARSAL = 'true\nenv true\n';
const REHEARSAL_LIMIT_MS = 30_000;

/** What a guest does for after it has woken, by itself; each VM would go on with it. */
const SETTLE_MS = 1000;

interface Waiting extends Standby {
  template: string;
}

/** @param quietMs without an operation before one is made; a guest that was woken settles as long at least */
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
    if (host.operations.runningCount() > 0) return quietMs;
    const quiet = askedAt + quietMs - performance.now();
    if (quiet > 0) return quiet;
    try {
      return await replenish();
    } catch (error) {
      if (stop.signal.aborted) return undefined;
      host.log.warn({ error: messageOf(error) }, 'no guest could be made ready');
      notBefore = performance.now() + AGAIN_MS;
      return AGAIN_MS;
    }
  }

  /** Frees those that no VM can take over, and makes one. @returns after how many `ms` there are more to make */
  async function replenish(): Promise<number | undefined> {
    const usable = await usableTemplates(host);
    for (const each of waiting) if (!usable.some(({ id }) => id === each.template)) await giveUp(each);
    const [template] = usable;
    if (!template) return undefined;
    const isShort = !(await hasRoom(host, template));
    // what stands ready for nobody is given up before somebody lacks it
    if (isShort && freemem() < RESERVE_BYTES) for (const each of waiting) await giveUp(each);
    const left = notBefore - performance.now();
    if (left > 0) return left;
    if (waiting.size >= wanted) {
      // each template that was used has its guests, and the one that was used last has one at least
      if ([...waiting].some((each) => each.template === template.id)) return undefined;
      const last = [...usable].reverse().find(({ id }) => [...waiting].some((each) => each.template === id));
      for (const each of [...waiting].filter((one) => one.template === last?.id).slice(0, 1)) await giveUp(each);
    }
    if (isShort) return undefined;
    const made = { ...(await makeReady(host, template, settleMs, stop.signal)), template: template.id };
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
      return { vm: found.vm, launched: found.launched };
    },
    free: discard,
    begin: () => lookIn(quietMs),
    async close() {
      stop.abort();
      unfollow();
      clearTimeout(timer);
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

async function makeReady(
  host: Host,
  template: TemplateRecord,
  settleMs: number,
  signal: AbortSignal,
): Promise<Standby> {
  const { shape, rootDiskBytes, workDiskBytes } = template;
  const { vcpus, memoryMib, nat, workMount } = shape;
  const boot = await findBootFiles(host, template.image);
  const vmm = await host.checks.chooseVmm(boot);
  const vm = await admitBuildVm(host, {
    ...{ name: NAME, image: boot.name, imageId: boot.imageId, vcpus, memoryMib, nat, rootDiskBytes, workDiskBytes },
    ...(workMount === null ? {} : { workDiskMount: workMount }),
  });
  host.stores.buildVms.rest(vm.id);
  try {
    const launched = await loadTemplate(host, vm, { template, boot, vmm }, createTimeline(), signal);
    await forgetMemory(host, vm);
    vm.vmm = launched.kind;
    vm.startedAt = host.now().toISOString();
    if (vmm.acceleration === 'tcg') await rehearse(host, vm, settleMs, signal);
    signal.throwIfAborted();
    return { vm, launched };
  } catch (error) {
    await host.agents.drop(vm);
    await discardBuildVm(host, vm);
    throw error;
  }
}

/** Its guest goes on as nobody else than the template, runs what every VM runs first, and stands still again. No packet leaves it. */
async function rehearse(host: Host, vm: VmRecord, settleMs: number, signal: AbortSignal): Promise<void> {
  await using api = connectVmm(vmmSocketOf(host, vm.id));
  await api.send(setState('Resumed'));
  const agent = await reachAgent(host, vm);
  await wakeAgain(host, vm, agent);
  await runThroughAgent(agent, REHEARSAL, REHEARSAL_LIMIT_MS);
  await sleep(settleMs, signal);
  await holdGuest(host, vm, randomUUID(), signal);
  await api.send(setState('Paused'));
}
