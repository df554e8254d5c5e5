import assert from 'node:assert/strict';
import { mkdir, rename } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { loadConfig } from '../../../src/config/load.ts';
import { createEvents } from '../../../src/control/events.ts';
import type { HostSystem } from '../../../src/control/host.ts';
import { createAgents } from '../../../src/control/vm/agents.ts';
import { AgentError } from '../../../src/guest/agent/errors.ts';
import { vmFiles } from '../../../src/storage/layout.ts';
import { type FakeAgentOptions, fakeAgent } from '../../support/fake-agent.ts';
import { sampleVm } from '../../support/sample-vm.ts';
import { tempDir } from '../../support/temp-dir.ts';

async function place(t: TestContext, below = '') {
  const home = join(await tempDir(t), below);
  const { config } = await loadConfig({ env: { BANGER_HOME: home }, uid: 0 });
  const vm = sampleVm({ phase: 'running', startedAt: '2026-11-29T10:00:00.000Z' });
  const { vsock } = vmFiles(config.paths.store, vm.id);
  await mkdir(dirname(vsock), { recursive: true });
  const events = createEvents(() => new Date());
  const quiet = { info: () => {}, warn: () => {}, error: () => {} };
  const agents = createAgents({ config, log: quiet, events, system: {} as HostSystem });
  t.after(() => agents[Symbol.asyncDispose]());
  const told: string[] = [];
  events.onEvent(({ type }) => told.push(type));
  return { vm, vsock, agents, told, start: (options?: FakeAgentOptions) => fakeAgent(t, vsock, options) };
}

describe('the agent of a VM', () => {
  it('is connected to once, and again when its connection ended', async (t) => {
    const { vm, agents, start } = await place(t);
    const fake = await start();
    const [one, other] = await Promise.all([agents.get(vm), agents.get(vm)]);
    assert.ok(one);
    assert.equal(one, other);
    assert.equal(agents.standing(vm)?.kind, 'present');
    const gone = new Promise<void>((resolve) => one.onClose(resolve));
    fake.reset();
    await gone;
    const next = await agents.get(vm);
    assert.ok(next && next !== one);
    await next.ping();
  });

  it('is missing where no socket leads to it, which is no trouble and not looked for again at once', async (t) => {
    const { vm, agents, start, told } = await place(t);
    assert.equal(await agents.get(vm), undefined);
    assert.deepEqual(agents.standing(vm), { kind: 'absent' });
    await start();
    assert.equal(await agents.get(vm), undefined);
    assert.ok(await agents.get({ ...vm, startedAt: '2026-11-29T11:00:00.000Z' }), 'another run is another guest');
    assert.deepEqual(told, []);
  });

  it('is done without when it speaks another language, which is told once', async (t) => {
    const { vm, agents, start, told } = await place(t);
    await start({ protocol: 7, version: '99.1' });
    assert.equal(await agents.get(vm), undefined);
    const standing = agents.standing(vm);
    assert.ok(standing?.kind === 'troubled');
    assert.match(standing.why, /its agent \(99\.1\) speaks protocol 7, and this banger 1/);
    agents.failed(vm, new AgentError('broken', standing.why));
    assert.deepEqual(told, ['vm.agent-troubled']);
  });

  it('is done without for a while after it did not do what it was asked', async (t) => {
    const { vm, agents, start, told } = await place(t);
    await start({ answer: () => 'silence' });
    const agent = await agents.get(vm);
    assert.ok(agent);
    await assert.rejects(agent.ping({ timeoutMs: 50 }), { trouble: 'silent' });
    agents.failed(vm, new AgentError('silent', 'its agent did not answer within 0.05 s'));
    assert.equal(agent.closed, true);
    assert.equal(await agents.get(vm), undefined);
    assert.deepEqual(told, ['vm.agent-troubled']);
    await agents.connect(vm, { timeoutMs: 1000 });
    assert.ok(await agents.get(vm), 'whoever insists has it again');
  });

  it('is reached where the path of its socket is longer than an address', async (t) => {
    const { vm, vsock, agents } = await place(t, 'a'.repeat(90));
    assert.ok(Buffer.byteLength(vsock) > 107);
    const near = join(await tempDir(t), 'v.sock');
    await fakeAgent(t, near);
    await rename(near, vsock);
    assert.ok(await agents.get(vm));
  });
});
