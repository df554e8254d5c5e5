/** Pulls that are cut off: by a daemon that is killed, by a disk that is full. Nothing is left, and the next one works. */
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { existsSync, statfsSync } from 'node:fs';
import { mkdir, readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { describe, it, type TestContext } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { pullImage } from '../../../src/control/images/pull.ts';
import { pushImage } from '../../../src/control/images/push.ts';
import { sweepImages } from '../../../src/control/upkeep/image-sweep.ts';
import { BangerError } from '../../../src/errors.ts';
import { imageFiles, ociFiles } from '../../../src/storage/layout.ts';
import { findProcesses } from '../../../src/system/processes.ts';
import { lacking } from '../../bundle/sample-bundle.ts';
import { fakeRegistry } from '../../support/fake-registry.ts';
import { rawTar, writeOciLayout } from '../../support/oci-image.ts';
import { type ImagePlace, imagePlace } from './image-host.ts';

const hasAgent = existsSync(join(import.meta.dirname, '../../../dist/banger-agent'));
const skip = lacking('skopeo') || (!hasAgent && 'dist/banger-agent is not compiled (make build)');
const CHILD = join(import.meta.dirname, '../../support/pull-child.ts');
const MIB = 1024 * 1024;

async function layoutIn(dir: string, megabytes: number): Promise<string> {
  const layout = join(dir, 'layout');
  const files = Array.from({ length: megabytes }, (_, index) => ({
    path: `file-${index}`,
    data: randomBytes(MIB).toString('latin1'),
  }));
  const layers = [
    { tar: rawTar([{ path: 'etc/one', data: '1' }]) },
    { tar: rawTar(files), packedBy: 'nothing' as const },
  ];
  await writeOciLayout(layout, { layers });
  return layout;
}

async function leftOver({ host, inStore }: ImagePlace): Promise<string[]> {
  const { pulls } = ociFiles(host.config.paths.store);
  return [...(await inStore()), ...(await readdir(pulls).catch((): string[] => []))];
}

describe('a daemon that is killed while it pulls', { skip }, () => {
  /** Kills it when it has said this step, and takes up what is left as the next daemon does. */
  async function killedAt(t: TestContext, step: string): Promise<void> {
    const here = await imagePlace(t);
    const registry = await fakeRegistry(t, await layoutIn(here.dir, 12));
    // slow enough to be in the middle of it
    registry.misbehave(async (request) => {
      if (step === 'fetch' && request.method === 'GET' && request.url?.includes('/blobs/')) await delay(300);
      return false;
    });
    const reference = `${registry.name}/app`;
    const child = spawn(process.execPath, [CHILD, here.dir, here.bundle, reference], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    t.after(() => void child.kill('SIGKILL'));
    for await (const line of createInterface({ input: child.stdout })) {
      if (line === step) break;
      assert.notEqual(line, 'done', `it did not say ${step}`);
    }
    await delay(100);
    child.kill('SIGKILL');
    await once(child, 'exit');
    assert.notDeepEqual(await leftOver(here), []);

    await sweepImages({ ...here.host, events: undefined } as never);
    assert.deepEqual(await leftOver(here), []);
    const programs = await findProcesses((argv) => argv.some((word) => word.includes(here.dir)));
    assert.deepEqual(programs, []);
    const image = await pullImage(here.host, { reference }, here.progress, new AbortController().signal);
    assert.deepEqual([image.pulled, image.problem], [true, null]);
    assert.deepEqual(await leftOver(here), [image.id]);
  }

  for (const step of ['fetch', 'verify', 'write']) {
    it(`at "${step}" leaves nothing, and the next pull works`, async (t) => await killedAt(t, step));
  }
});

const isRoot = process.getuid?.() === 0 || 'needs root, to mount a small file system';

describe('a store that is full', { skip: skip || (isRoot === true ? false : isRoot) }, () => {
  it('at any step leaves nothing of a pull, and the next one works', async (t) => {
    const here = await imagePlace(t);
    const reference = `oci:${await layoutIn(here.dir, 12)}`;
    const { store } = here.host.config.paths;
    await mkdir(store, { recursive: true });
    // what a pull leaves free, and room for the image twice
    const mounted = spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=330M', 'tmpfs', store]);
    if (mounted.status !== 0) return t.skip('a file system cannot be mounted here');
    using _ = { [Symbol.dispose]: () => void spawnSync('umount', ['-l', store]) };
    await mkdir(join(imageFiles(store, 'x').directory, '..'), { recursive: true });
    const filler = join(store, 'filler');
    // before the step goes on
    const fill = () => {
      const { bavail, bsize } = statfsSync(store);
      spawnSync('fallocate', ['-l', String(bavail * bsize), filler]);
    };
    const pullFilledAt = async (step: string) => {
      const progress = {
        ...here.progress,
        step: (name: string) => {
          if (name === step) fill();
        },
      };
      try {
        return await pullImage(here.host, { reference }, progress, new AbortController().signal);
      } finally {
        await rm(filler, { force: true });
      }
    };
    const seen: string[] = [];
    for (const step of ['resolve', 'fetch', 'verify', 'write']) {
      await rm(ociFiles(store).blobs, { recursive: true, force: true });
      await assert.rejects(pullFilledAt(step), (error) => {
        assert.ok(error instanceof BangerError, String(error));
        assert.equal(error.code, 'host_unprepared', `${step}: ${error.message}`);
        assert.match(error.message, /room|fit/);
        seen.push(error.message);
        return true;
      });
      assert.deepEqual(await leftOver(here), [], step);
    }
    assert.equal(seen.length, 4);
    const image = await pullImage(here.host, { reference }, here.progress, new AbortController().signal);
    assert.equal(image.pulled, true);
    assert.deepEqual(await leftOver(here), [image.id]);

    // nor is the last of the room taken by what is written for others
    const target = join(here.dir, 'pushed');
    const push = () =>
      pushImage(here.host, image.name, { reference: `oci:${target}` }, here.progress, new AbortController().signal);
    await assert.rejects(push(), { code: 'host_unprepared', message: /no room for the layer/ });
    assert.deepEqual(await leftOver(here), [image.id]);
    assert.ok(!existsSync(target));
  });
});
