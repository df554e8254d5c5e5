/**
 * Blank VMMs: launched, with a network device, and told nothing yet. A new VM that begins as a template takes one, so that this
 * much of its start is done before anybody asks. Each is a VM of nobody: whatever of it a daemon leaves, the next one frees.
 */
import { freemem } from 'node:os';
import { isDeepStrictEqual } from 'node:util';
import type { TemplateRecord } from '../../core/template.ts';
import { messageOf } from '../../errors.ts';
import type { BootFiles } from '../../preflight/context.ts';
import { sideBySide } from '../../system/abort.ts';
import { MIB } from '../../units.ts';
import { admitBuildVm, discardBuildVm } from '../builds/build-vm.ts';
import { findBootFiles } from '../bundles/boot-files.ts';
import type { Host } from '../host.ts';
import { type Blank, type Blanks, NO_BLANKS } from '../vm/blank.ts';
import { type LaunchedVm, launchVm } from '../vm/boot.ts';

/** How long nothing may have been asked for: whoever has just started a VM goes on to use it. */
const QUIET_MS = 1000;

/** After one could not be made. */
const AGAIN_MS = 60_000;

/** Left of the host's memory; a blank VMM takes a tenth of it. */
const RESERVE_BYTES = 512 * MIB;

/** What it is made for: it has this program and limits, and no other can be loaded into it. */
interface Fitting {
  vmm: Awaited<ReturnType<Host['checks']['chooseVmm']>>;
  vcpus: number;
  memoryMib: number;
  // how long its files may be
  rootDiskBytes: number;
  workDiskBytes: number;
}

interface Waiting extends Blank {
  fitting: Fitting;
}

/** @param quietMs without an operation before one is made */
export function createBlanks(host: Host, quietMs = QUIET_MS): Blanks {
  const wanted = host.config.pool.ready;
  if (wanted === 0) return NO_BLANKS;
  const waiting = new Set<Waiting>();
  const stop = new AbortController();
  let timer: NodeJS.Timeout | undefined;
  /** of `performance.now()`, when the timer ends, when something was asked for last, and before when none is launched */
  let [dueAt, askedAt, notBefore] = [Infinity, -Infinity, -Infinity];
  let working: Promise<void> | undefined;
  let askedMeanwhile = false;

  const unfollow = host.events.onEvent(({ type }) => {
    // templates come and go by operations, and blanks with the VMs that these make
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
      host.log.warn({ error: messageOf(error) }, 'no blank VMM could be made');
      notBefore = performance.now() + AGAIN_MS;
      return AGAIN_MS;
    }
  }

  /** Frees those that nothing begins in any more, and makes one. @returns after how many `ms` there are more to make */
  async function replenish(): Promise<number | undefined> {
    const template = lastUsed(host.stores.templates.list());
    const boot = template && (await findBootFiles(host, template.image));
    const fitting = template && boot && (await fittingOf(boot, template));
    for (const blank of waiting) {
      if (isDeepStrictEqual(blank.fitting, fitting)) continue;
      waiting.delete(blank);
      await discard(blank);
    }
    if (!template || !boot || !fitting || waiting.size >= wanted || freemem() < RESERVE_BYTES) return undefined;
    const left = notBefore - performance.now();
    if (left > 0) return left;
    const blank = { ...(await launchBlank(host, template, boot, stop.signal)), fitting };
    waiting.add(blank);
    void blank.launched.ended.then(async () => {
      if (!waiting.delete(blank)) return;
      host.log.warn({ vm: blank.vm.id }, 'a blank VMM ended');
      await discard(blank);
      notBefore = performance.now() + AGAIN_MS;
      lookIn(AGAIN_MS);
    });
    return waiting.size < wanted ? quietMs : undefined;
  }

  /** What cannot be freed is freed by the next daemon. */
  async function discard({ vm }: Blank): Promise<void> {
    await discardBuildVm(host, vm).catch((error) =>
      host.log.error({ vm: vm.id, error: messageOf(error) }, 'a blank VMM could not be freed'),
    );
  }

  async function fittingOf(boot: BootFiles, template: TemplateRecord): Promise<Fitting> {
    const { rootDiskBytes, workDiskBytes, shape } = template;
    const { vcpus, memoryMib } = shape;
    return { vmm: await host.checks.chooseVmm(boot), vcpus, memoryMib, rootDiskBytes, workDiskBytes };
  }

  return {
    count: () => ({ ready: waiting.size, wanted }),
    async take(boot, template) {
      if (waiting.size === 0) return undefined;
      const fitting = await fittingOf(boot, template);
      // no await between finding and taking it: two starts cannot get the same one
      const found = [...waiting].find((blank) => isDeepStrictEqual(blank.fitting, fitting));
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
      for (const blank of left) await discard(blank);
    },
  };
}

function lastUsed(templates: readonly TemplateRecord[]): TemplateRecord | undefined {
  return templates.toSorted((a, b) => b.usedAt.localeCompare(a.usedAt))[0];
}

async function launchBlank(
  host: Host,
  { shape: { vcpus, memoryMib }, rootDiskBytes, workDiskBytes }: TemplateRecord,
  boot: BootFiles,
  signal: AbortSignal,
): Promise<Blank> {
  const sizes = { vcpus, memoryMib, rootDiskBytes, workDiskBytes };
  const vm = await admitBuildVm(host, { name: 'blank', image: boot.name, imageId: boot.imageId, ...sizes });
  host.stores.buildVms.rest(vm.id);
  try {
    let launched: LaunchedVm | undefined;
    await sideBySide(signal, [
      // nobody sends through it
      () => host.network.attach(vm, { closed: true }),
      async (either) => {
        launched = await launchVm(host, vm, boot, either, { continues: true });
      },
    ]);
    signal.throwIfAborted();
    if (launched) return { vm, launched };
    throw new Error('it was not launched');
  } catch (error) {
    await discardBuildVm(host, vm);
    throw error;
  }
}
