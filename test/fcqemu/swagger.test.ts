/** Requests and answers against Firecracker's own API description, when a copy lies beside the project. */
import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { after, before, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { parse } from 'yaml';
import { startVmm, type Vmm } from './support/vmm-process.ts';

interface Schema {
  $ref?: string;
  type?: string;
  enum?: string[];
  required?: string[];
  properties?: Record<string, Schema>;
  additionalProperties?: unknown;
  items?: Schema;
  minimum?: number;
}
interface Operation {
  parameters?: { in: string; name: string; schema?: Schema }[];
  responses: Record<string, { schema?: Schema }>;
}
interface Swagger {
  paths: Record<string, Record<string, Operation>>;
  definitions: Record<string, Schema>;
}

const file = fileURLToPath(new URL('../../../shared/firecracker-api.yaml', import.meta.url));
const skip = existsSync(file) ? false : 'no copy of firecracker-api.yaml beside the project';
const swagger: Swagger = skip ? { paths: {}, definitions: {} } : parse(readFileSync(file, 'utf8'));

/** Values a string field needs to be accepted at all. */
const STRINGS: Record<string, string> = {
  guest_mac: '06:00:00:00:00:01',
  ipv4_address: '169.254.169.254',
};

function resolve(schema: Schema): Schema {
  const name = schema.$ref?.replace('#/definitions/', '');
  return name === undefined ? schema : resolve(swagger.definitions[name] ?? {});
}

/** A value the schema allows; with every property, or with the required ones only. */
function sample(schema: Schema, complete: boolean, key = ''): unknown {
  const { type, enum: values, properties = {}, required = [], items, minimum } = resolve(schema);
  if (values) return values[0];
  if (type === 'string') return STRINGS[key] ?? 'x';
  if (type === 'integer') return minimum ?? 1;
  if (type === 'boolean') return false;
  if (type === 'array') return complete && items ? [sample(items, complete)] : [];
  const names = complete ? Object.keys(properties) : required;
  return Object.fromEntries(names.map((name) => [name, sample(properties[name] ?? {}, complete, name)]));
}

function problems(schema: Schema, value: unknown, path: string): string[] {
  const { type, enum: values, properties = {}, required = [], items, additionalProperties } = resolve(schema);
  if (value === null) return [];
  if (values && !values.includes(value as string)) return [`${path}: ${value} is none of ${values}`];
  const actual = Array.isArray(value) ? 'array' : Number.isInteger(value) ? 'integer' : typeof value;
  if (type !== undefined && actual !== type) return [`${path}: ${actual} instead of ${type}`];
  if (Array.isArray(value)) return value.flatMap((item, at) => problems(items ?? {}, item, `${path}[${at}]`));
  if (typeof value !== 'object') return [];
  const found = required.filter((name) => !(name in value)).map((name) => `${path}.${name}: missing`);
  for (const [name, member] of Object.entries(value)) {
    const known = properties[name];
    if (known) found.push(...problems(known, member, `${path}.${name}`));
    else if (!additionalProperties) found.push(`${path}.${name}: unknown`);
  }
  return found;
}

const operations = Object.entries(swagger.paths).flatMap(([path, methods]) =>
  Object.entries(methods).map(([method, operation]) => ({ path, method: method.toUpperCase(), operation })),
);

describe('the API description', { skip }, () => {
  let vmm: Vmm;
  const cleanups: (() => unknown)[] = [];
  before(async () => {
    vmm = await startVmm({ after: (fn) => void cleanups.push(fn as () => unknown) });
  });
  after(async () => {
    for (const cleanup of cleanups) await cleanup();
  });

  const url = (path: string) => path.replace(/\{\w+\}/, 'x');

  for (const { path, method, operation } of operations) {
    const body = operation.parameters?.find((parameter) => parameter.in === 'body')?.schema;

    it(`${method} ${path} is known`, async () => {
      const answer = await vmm.call(method, url(path), body && sample(body, false));
      assert.doesNotMatch(answer.body, /Invalid request method|Unrecognized|Empty (PUT|PATCH)/);
      assert.ok([200, 204, 400].includes(answer.status));
    });

    if (!body || path === '/mmds') continue;
    const { required = [], properties = {} } = resolve(body);

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

    if (resolve(body).additionalProperties || path === '/metrics' || path === '/balloon/hinting/start') continue;
    it(`${method} ${path} refuses a field of its own making`, async () => {
      const names = Object.keys(properties);
      const message = await vmm.fault(method, url(path), { no_such_field: 1 });
      assert.match(message, /unknown field `no_such_field`, expected/);
      const arm = ['reg_modifiers', 'vcpu_features'];
      for (const name of names)
        if (!arm.includes(name)) assert.ok(message.includes(`\`${name}\``), `${name} is not listed`);
    });
  }

  for (const { path, method, operation } of operations) {
    const answerSchema = operation.responses['200']?.schema;
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
      assert.deepEqual(problems(answerSchema, JSON.parse(answer.body), 'answer'), []);
    });
  }
});
