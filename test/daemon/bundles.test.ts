import assert from 'node:assert/strict';
import { mkdir, readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import type { FastifyInstance } from 'fastify';
import { pino } from 'pino';
import type { BundleDetail } from '../../src/api/bundle.ts';
import type { Operation } from '../../src/api/operation.ts';
import { loadConfig } from '../../src/config/load.ts';
import { createOperations, type Operations } from '../../src/control/operations.ts';
import { bundleHandlers } from '../../src/daemon/routes/bundles.ts';
import { createServer, type Handlers } from '../../src/daemon/server.ts';
import { openDatabase } from '../../src/state/database.ts';
import { createOperationStore } from '../../src/state/operations.ts';
import { createStores } from '../../src/state/stores.ts';
import { kernelArch } from '../../src/system/host-facts.ts';
import { bundleFiles, lacking, runner, sampleBundle } from '../bundle/sample-bundle.ts';
import { hostSystem } from '../support/host-system.ts';
import { PASSED_CHECKS } from '../support/passed-checks.ts';
import { sampleVm } from '../support/sample-vm.ts';
import { tempDir } from '../support/temp-dir.ts';

interface Place {
  dir: string;
  catalog: string;
  server: FastifyInstance;
  operations: Operations;
  get(url: string): Promise<unknown>;
  /** the operation a request began, ended */
  ended(url: string, body: object): Promise<Operation>;
}

/** The routes of bundles over real directories. */
async function place(t: TestContext, env: NodeJS.ProcessEnv = {}): Promise<Place> {
  const dir = await tempDir(t);
  const { config } = await loadConfig({ env: { ...env, HOME: dir, BANGER_HOME: dir }, uid: 1000 });
  const database = openDatabase(':memory:');
  const now = () => new Date();
  const operations = createOperations(createOperationStore(database), now);
  const stores = createStores(database);
  stores.vms.insert(sampleVm({ image: 'one' }));
  const checks = PASSED_CHECKS;
  const handlers = bundleHandlers({
    ...{ config, operations, stores, checks, system: { ...hostSystem({}, 1000), runner }, now },
  });
  // the other routes are never called
  const server = createServer(handlers as Handlers, pino({ level: 'silent' }));
  t.after(() => server.close());
  return {
    dir,
    catalog: config.paths.bundles,
    server,
    operations,
    get: async (url) => (await server.inject({ method: 'GET', url })).json(),
    async ended(url, body) {
      const answer = await server.inject({ method: 'POST', url, payload: body });
      assert.equal(answer.statusCode, 202, answer.body);
      return await operations.finished(answer.json<Operation>().id);
    },
  };
}

const skip =
  lacking('mke2fs', 'tar', 'zstd') || (kernelArch(process.arch) !== 'x86_64' && 'the sample bundle is for x86_64');

describe('the routes of bundles', { skip }, () => {
  it('show one by name, by path with whoever uses it, and the default one', async (t) => {
    const { catalog, dir, get, server } = await place(t);
    await sampleBundle(join(catalog, 'one'));
    await sampleBundle(join(dir, 'elsewhere'));
    const one = (await get('/v1/bundles/show?name=one')) as BundleDetail;
    assert.deepEqual([one.name, one.usedBy, one.isDefault, one.notice], ['one', ['web'], false, null]);
    assert.equal(one.kernel, join(catalog, 'one/vmlinux'));
    assert.deepEqual(one.defaults, {
      vcpus: 1,
      memoryMib: 512,
      bootArgs: '',
      rootDiskBytes: 4 * 2 ** 30,
      workDiskBytes: 8 * 2 ** 30,
    });
    const elsewhere = (await get(`/v1/bundles/show?name=${dir}/elsewhere/`)) as BundleDetail;
    assert.deepEqual([elsewhere.name, elsewhere.directory], ['sample', join(dir, 'elsewhere')]);
    assert.equal((await server.inject({ method: 'GET', url: '/v1/bundles/show' })).statusCode, 404);
    const used = await server.inject({ method: 'POST', url: '/v1/bundles/use', payload: { name: 'one' } });
    assert.deepEqual([used.statusCode, used.json().isDefault], [200, true]);
    assert.equal(((await get('/v1/bundles/show')) as BundleDetail).name, 'one');
  });

  it('choose no bundle while the configuration chooses another', async (t) => {
    const { catalog, server } = await place(t, { BANGER_BUNDLE_DEFAULT: 'two' });
    await sampleBundle(join(catalog, 'one'));
    const used = await server.inject({ method: 'POST', url: '/v1/bundles/use', payload: { name: 'one' } });
    assert.equal(used.statusCode, 409);
    assert.deepEqual(await readdir(catalog), ['one']);
  });

  it('verify one, with a wrong sum as an answer and the bytes read as progress', async (t) => {
    const { catalog, ended, operations } = await place(t);
    await sampleBundle(join(catalog, 'one'));
    const good = await ended('/v1/bundles/verify', { name: 'one' });
    assert.deepEqual([good.state, good.target], ['succeeded', `bundle ${catalog}/one`]);
    const events = await Array.fromAsync(operations.events(good.id, new AbortController().signal));
    const progress = events.filter((event) => event.type === 'progress').at(-1);
    assert.ok(progress?.done !== undefined && progress.done > 2 ** 20, JSON.stringify(progress));
    assert.equal(progress.done, progress.total);
    await writeFile(join(catalog, 'one/rootfs.packages'), 'apt 2.6.2 amd64\n');
    const { state, result } = await ended('/v1/bundles/verify', { name: 'one' });
    const { ok, checks } = result as { ok: boolean; checks: { field: string; ok: boolean }[] };
    assert.deepEqual([state, ok], ['succeeded', false]);
    assert.deepEqual(
      checks.filter((check) => !check.ok).map((check) => check.field),
      ['files.rootfs.packages'],
    );
  });

  it('answer for a bundle that is not there before an operation begins', async (t) => {
    const { server, operations } = await place(t);
    for (const [url, payload] of [
      ['/v1/bundles/verify', { name: 'none' }],
      ['/v1/bundles/export', { name: 'none', file: '/nowhere/x' }],
    ] as const) {
      assert.equal((await server.inject({ method: 'POST', url, payload })).statusCode, 404, url);
    }
    assert.deepEqual(operations.list(), []);
  });

  it('take absolute paths only', async (t) => {
    const { server } = await place(t);
    for (const [url, payload] of [
      ['/v1/bundles/import', { source: 'x.tar.zst' }],
      ['/v1/bundles/export', { name: 'one', file: 'x.tar.zst' }],
      ['/v1/bundles/adopt', { directory: 'x' }],
    ] as const) {
      assert.equal((await server.inject({ method: 'POST', url, payload })).statusCode, 400, url);
    }
  });

  it('export one and import it again, the first of the store as the default', async (t) => {
    const { catalog, dir, ended } = await place(t);
    await sampleBundle(join(dir, 'made'));
    const file = join(dir, 'made.tar.zst');
    const exported = await ended('/v1/bundles/export', { name: join(dir, 'made'), file });
    assert.deepEqual([exported.state, exported.error], ['succeeded', null]);
    const { sizeBytes, ...rest } = exported.result as { sizeBytes: number };
    assert.deepEqual(rest, { name: 'sample', file });
    assert.ok(sizeBytes > 0);
    const imported = await ended('/v1/bundles/import', { source: file, name: 'mine' });
    assert.deepEqual([imported.state, imported.target], ['succeeded', `bundle ${catalog}/mine`]);
    assert.equal((imported.result as BundleDetail).isDefault, true);
    const second = await ended('/v1/bundles/import', { source: file });
    assert.equal((second.result as BundleDetail).isDefault, false);
    assert.equal((await ended('/v1/bundles/import', { source: file })).error?.code, 'conflict');
    assert.equal((await ended('/v1/bundles/import', { source: file, force: true })).state, 'succeeded');
    assert.deepEqual((await readdir(catalog)).sort(), ['default', 'mine', 'sample']);
  });

  it('adopt a directory once, and export none before that', async (t) => {
    const { catalog, dir, ended } = await place(t);
    const old = join(dir, 'old');
    await mkdir(catalog, { recursive: true });
    await bundleFiles(old);
    const refused = await ended('/v1/bundles/export', { name: old, file: join(dir, 'old.tar.zst') });
    assert.deepEqual([refused.error?.code, refused.error?.hint], ['conflict', `Write one: banger bundle adopt ${old}`]);
    const adopted = await ended('/v1/bundles/adopt', { directory: old });
    assert.deepEqual([adopted.state, (adopted.result as BundleDetail).legacy], ['succeeded', false]);
    assert.equal((await ended('/v1/bundles/adopt', { directory: old })).error?.code, 'conflict');
    assert.equal((await ended('/v1/bundles/verify', { name: old })).state, 'succeeded');
  });
});
