import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdir, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { dirname, join } from 'node:path';
import { Duplex, PassThrough } from 'node:stream';
import { describe, it, type TestContext } from 'node:test';
import { loadConfig } from '../../../src/config/load.ts';
import type { Host } from '../../../src/control/host.ts';
import { learnProcess, viewProcess, viewVmDetail } from '../../../src/control/vm/view.ts';
import type { AgentChannel } from '../../../src/guest/agent/exec-channel.ts';
import { openDatabase } from '../../../src/state/database.ts';
import { createStores } from '../../../src/state/stores.ts';
import { imageFiles, vmmSocket } from '../../../src/storage/layout.ts';
import { hostSystem } from '../../support/host-system.ts';
import { NO_AGENTS } from '../../support/no-agents.ts';
import { PASSED_CHECKS } from '../../support/passed-checks.ts';
import { sampleVm } from '../../support/sample-vm.ts';
import { tempDir } from '../../support/temp-dir.ts';
import { agentsOf } from '../../support/waking-agents.ts';

/** A VM whose VMM says that it is this version; none answers for `undefined`. */
async function viewOf(t: TestContext, version: string | undefined, phase: 'running' | 'stopped' = 'running') {
  const home = await tempDir(t);
  const { config } = await loadConfig({ env: { BANGER_HOME: home, PATH: join(home, 'bin') }, uid: 0 });
  const vm = sampleVm({ phase, startedAt: phase === 'running' ? new Date().toISOString() : null });
  const socket = vmmSocket(config.paths.run, vm.id);
  await mkdir(dirname(socket), { recursive: true });
  if (version !== undefined) {
    const server = createServer((_request, response) => {
      response.end(JSON.stringify({ id: 'x', state: 'Running', vmm_version: version, app_name: 'Firecracker' }));
    });
    server.listen(socket);
    await once(server, 'listening');
    t.after(() => {
      server.closeAllConnections();
      server.close();
    });
  }
  const stores = createStores(openDatabase(':memory:'));
  const health = { silent: new Set<string>(), emulatedMeanwhile: new Set<string>(), processes: new Map() };
  return await viewVmDetail(
    { config, stores, health, system: hostSystem(), agents: NO_AGENTS, checks: PASSED_CHECKS, now: () => new Date() },
    vm,
  );
}

const OCI = {
  ...{ version: 1, reference: 'one', digest: '', manifest: '', platform: 'linux/amd64', layers: [] },
  process: {
    ...{ entrypoint: [], cmd: [], env: [], user: '', workdir: '/', stopSignal: 'SIGTERM', ports: [], volumes: [] },
    ...{ labels: {}, healthcheck: null },
  },
} as const;

/** A host with a running VM of an OCI image, whose guest answers what `answer` returns when it is asked for its process. */
async function processHost(t: TestContext, answer: () => string) {
  const home = await tempDir(t);
  const { config } = await loadConfig({ env: { BANGER_HOME: home }, uid: 0 });
  const vm = sampleVm({ phase: 'running', imageId: '000000aa' });
  const { oci, directory } = imageFiles(config.paths.store, '000000aa');
  await mkdir(directory, { recursive: true });
  await writeFile(oci, JSON.stringify(OCI));
  const stores = createStores(openDatabase(':memory:'));
  stores.vms.insert(vm);
  const processes = new Map<string, string>();
  const agents = agentsOf(
    { woken: [] },
    {
      hello: {
        ...{ protocol: 1, version: '0', features: new Set(['exec']) },
        ...{ frozenBy: undefined, generation: undefined },
      },
      exec() {
        const channel = new Duplex({ read() {}, write: (_chunk, _encoding, done) => done() });
        channel.push(answer());
        channel.push(null);
        const ended = Promise.resolve({ code: 0, signal: null });
        return Object.assign(channel, { stderr: new PassThrough().end(), ended }) as unknown as AgentChannel;
      },
    },
  );
  const health = { silent: new Set<string>(), emulatedMeanwhile: new Set<string>(), processes };
  return { host: { agents, config, stores, health } as unknown as Host, vm, stores, processes, oci };
}

const UNHEALTHY = 'state=running\ndetail=\nhealth=unhealthy\nhealth-detail=status 1\n';

describe('the process of an image', () => {
  it('is asked for again where a guest that goes on from before is too busy to say how it is', async (t) => {
    let asked = 0;
    const { host, vm, processes, oci } = await processHost(t, () => {
      asked += 1;
      if (asked < 3) throw new Error('it did not answer');
      return UNHEALTHY;
    });
    const { signal } = new AbortController();
    await learnProcess(host, vm, signal, [1, 1, 1, 1]);
    assert.deepEqual([asked, processes.get(vm.id)], [3, 'unhealthy']);
    await learnProcess(host, vm, signal, [1]);
    assert.equal(asked, 3, 'what is known is not asked for');
    processes.clear();
    await rm(oci);
    await learnProcess(host, vm, signal, [1]);
    assert.equal(asked, 3, 'it has none');
  });

  it('has a health that is kept as long as its VM runs, and no answer that comes later brings it back', async (t) => {
    let meanwhile = () => {};
    const { host, vm, stores, processes } = await processHost(t, () => {
      meanwhile();
      return UNHEALTHY;
    });
    const look = () => viewProcess(host, vm);
    assert.deepEqual((await look())?.health, { state: 'unhealthy', detail: 'status 1' });
    assert.equal(processes.get(vm.id), 'unhealthy');
    // as a stop does it
    meanwhile = () => {
      stores.vms.update(vm.id, { phase: 'stopping' });
      processes.delete(vm.id);
    };
    assert.equal((await look())?.state, 'running');
    assert.deepEqual([...processes], []);
  });
});

describe('a VM in full', () => {
  it('has the version of its VMM, and what that cannot do', async (t) => {
    const old = await viewOf(t, '1.13.1');
    assert.equal(old.vmmVersion, '1.13.1');
    assert.match(
      old.vmmLimits.join(),
      /^it cannot be told the MTU .* so guests set it themselves,VMs that it runs cannot be suspended/,
    );
    const today = await viewOf(t, '1.16.1+fcqemu');
    assert.deepEqual([today.vmmVersion, today.vmmLimits], ['1.16.1+fcqemu', []]);
  });

  it('has none where no VMM answers', async (t) => {
    for (const view of [await viewOf(t, undefined), await viewOf(t, '1.13.1', 'stopped')]) {
      assert.deepEqual([view.vmmVersion, view.vmmLimits], [null, []]);
    }
  });
});
