/** Requests and answers against Firecracker's own API description. */
import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { exchangeProblems, operations, resolveSchema, type Schema, schemaProblems } from './support/api-description.ts';
import { startVmm, type Vmm } from './support/vmm-process.ts';

/** Values a string field needs to be accepted at all. */
const STRINGS: Record<string, string> = {
  guest_mac: '06:00:00:00:00:01',
  ipv4_address: '169.254.169.254',
};

/** A value the schema allows; with every property, or with the required ones only. */
function sample(schema: Schema, complete: boolean, key = ''): unknown {
  const { type, enum: values, properties = {}, required = [], items, minimum } = resolveSchema(schema);
  if (values) return values[0];
  if (type === 'string') return STRINGS[key] ?? 'x';
  if (type === 'integer') return minimum ?? 1;
  if (type === 'boolean') return false;
  if (type === 'array') return complete && items ? [sample(items, complete)] : [];
  const names = complete ? Object.keys(properties) : required;
  return Object.fromEntries(names.map((name) => [name, sample(properties[name] ?? {}, complete, name)]));
}

describe('the API description', () => {
  let vmm: Vmm;
  const cleanups: (() => unknown)[] = [];
  before(async () => {
    vmm = await startVmm({ after: (fn) => void cleanups.push(fn as () => unknown) });
  });
  after(async () => {
    for (const cleanup of cleanups) await cleanup();
  });

  const url = (path: string) => path.replace(/\{\w+\}/, 'x');

  for (const { path, method, body } of operations) {
    it(`${method} ${path} is known`, async () => {
      const answer = await vmm.call(method, url(path), body && sample(body, false));
      assert.doesNotMatch(answer.body, /Invalid request method|Unrecognized|Empty (PUT|PATCH)/);
      assert.ok([200, 204, 400].includes(answer.status));
    });

    if (!body || path === '/mmds') continue;
    const { required = [], properties = {} } = resolveSchema(body);

    it(`${method} ${path} takes every field`, async () => {
      const complete = sample(body, true) as Record<string, unknown>;
      if (path === '/snapshot/load') delete complete.mem_file_path;
      // CPU modifiers have a grammar of their own, and nothing but none of them is accepted
      if (path === '/cpu-config') return;
      const answer = await vmm.call(method, url(path), complete);
      assert.doesNotMatch(answer.body, /deserializing the json body/);
    });

    // the description names PUT's schema for this PATCH, which takes any subset
    for (const field of method === 'PATCH' && path === '/machine-config' ? [] : required) {
      it(`${method} ${path} insists on ${field}`, async () => {
        const incomplete = sample(body, false) as Record<string, unknown>;
        delete incomplete[field];
        assert.match(await vmm.fault(method, url(path), incomplete), new RegExp(`missing field \`${field}\``));
      });
    }

    if (resolveSchema(body).additionalProperties || path === '/metrics' || path === '/balloon/hinting/start') continue;
    it(`${method} ${path} refuses a field of its own making`, async () => {
      const names = Object.keys(properties);
      const message = await vmm.fault(method, url(path), { no_such_field: 1 });
      assert.match(message, /unknown field `no_such_field`, expected/);
      const arm = ['reg_modifiers', 'vcpu_features'];
      for (const name of names)
        if (!arm.includes(name)) assert.ok(message.includes(`\`${name}\``), `${name} is not listed`);
    });
  }

  for (const { path, method, answers } of operations) {
    const answerSchema = answers['200'];
    if (method !== 'GET' || !answerSchema) continue;
    it(`GET ${path} answers in the described form`, async (t) => {
      const fresh = await startVmm(t);
      const disk = await fresh.file('disk', Buffer.alloc(512));
      await fresh.put('/drives/a', { drive_id: 'a', is_root_device: false, path_on_host: disk });
      await fresh.put('/balloon', { amount_mib: 1, deflate_on_oom: true });
      await fresh.put('/entropy', {});
      const answer = await fresh.call('GET', path);
      if (answer.status !== 200) {
        assert.match(answer.body, /not supported before starting the microVM/);
        return;
      }
      assert.deepEqual(schemaProblems(answerSchema, JSON.parse(answer.body), 'answer'), []);
    });
  }

  it('is what every exchange of these tests is held against', () => {
    const accepted = { method: 'PUT', path: '/vsock', status: 204, answer: '' };
    assert.deepEqual(exchangeProblems({ ...accepted, body: { guest_cid: 3, uds_path: 'v' } }), []);
    assert.deepEqual(exchangeProblems({ ...accepted, body: { guest_cid: '3' } }), [
      'request.uds_path: missing',
      'request.guest_cid: string instead of integer',
    ]);
    const refused = { method: 'GET', path: '/nowhere', body: undefined, status: 400 };
    assert.deepEqual(exchangeProblems({ ...refused, answer: '{"fault_message":"x"}' }), []);
    assert.equal(exchangeProblems({ ...refused, answer: '{"error":"x"}' }).length, 1);
    assert.equal(exchangeProblems({ ...refused, status: 204, answer: '' }).length, 1);
  });
});
