/** Firecracker's own API description, and whether a request and its answer are what it says. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { parse } from 'yaml';

export interface Schema {
  $ref?: string;
  type?: string;
  enum?: string[];
  required?: string[];
  properties?: Record<string, Schema>;
  additionalProperties?: unknown;
  items?: Schema;
  minimum?: number;
}

export interface Operation {
  path: string;
  method: string;
  /** of the request's body */
  body: Schema | undefined;
  /** of the answers' bodies, by status or `default` */
  answers: Record<string, Schema | undefined>;
}

interface Swagger {
  paths: Record<string, Record<string, SwaggerOperation>>;
  definitions: Record<string, Schema>;
}

interface SwaggerOperation {
  parameters?: { in: string; name: string; schema?: Schema }[];
  responses: Record<string, { schema?: Schema }>;
}

const swagger: Swagger = parse(readFileSync(join(import.meta.dirname, 'firecracker-api.yaml'), 'utf8'));

export const operations: Operation[] = Object.entries(swagger.paths).flatMap(([path, methods]) =>
  Object.entries(methods).map(([method, { parameters, responses }]) => ({
    path,
    method: method.toUpperCase(),
    body: parameters?.find((parameter) => parameter.in === 'body')?.schema,
    answers: Object.fromEntries(Object.entries(responses).map(([status, { schema }]) => [status, schema])),
  })),
);

/**
 * Where Firecracker accepts more than its description says: a PATCH that names PUT's schema and takes any subset,
 * metadata that is no object, levels in any case.
 */
const WIDER = new Set(['PATCH /machine-config', 'PUT /mmds', 'PATCH /mmds', 'PUT /logger']);

export function resolveSchema(schema: Schema): Schema {
  const name = schema.$ref?.replace('#/definitions/', '');
  return name === undefined ? schema : resolveSchema(swagger.definitions[name] ?? {});
}

/** What is wrong with a value; empty when it has the described form. */
export function schemaProblems(schema: Schema, value: unknown, path: string): string[] {
  const { type, enum: values, properties = {}, required = [], items, additionalProperties } = resolveSchema(schema);
  if (value === null) return [];
  if (values && !values.includes(value as string)) return [`${path}: ${value} is none of ${values}`];
  const actual = Array.isArray(value) ? 'array' : Number.isInteger(value) ? 'integer' : typeof value;
  if (type !== undefined && actual !== type) return [`${path}: ${actual} instead of ${type}`];
  if (Array.isArray(value)) return value.flatMap((item, at) => schemaProblems(items ?? {}, item, `${path}[${at}]`));
  if (typeof value !== 'object') return [];
  const found = required.filter((name) => !(name in value)).map((name) => `${path}.${name}: missing`);
  for (const [name, member] of Object.entries(value)) {
    const known = properties[name];
    if (known) found.push(...schemaProblems(known, member, `${path}.${name}`));
    else if (!additionalProperties && type === 'object' && Object.keys(properties).length > 0) {
      found.push(`${path}.${name}: unknown`);
    }
  }
  return found;
}

export interface Exchange {
  method: string;
  path: string;
  /** JSON text or a value */
  body: unknown;
  status: number;
  answer: string;
}

/**
 * What of an exchange contradicts the description: a body that was accepted and should not be valid, or an answer
 * of another form. Requests it does not know must be refused.
 */
export function exchangeProblems({ method, path, body, status, answer }: Exchange): string[] {
  const operation = operations.find(
    (each) => each.method === method && pathPattern(each.path).test(path.replace(/^\/+/, '/')),
  );
  const isError = status >= 400;
  if (isError) return schemaProblems({ $ref: '#/definitions/Error' }, parsed(answer), `${status} of ${method} ${path}`);
  if (!operation) return [`${method} ${path} was accepted and is not described`];
  const problems: string[] = [];
  if (!(status in operation.answers)) problems.push(`${method} ${path}: status ${status} is not described`);
  if (operation.body && body !== undefined && !WIDER.has(`${method} ${operation.path}`)) {
    problems.push(...schemaProblems(operation.body, typeof body === 'string' ? parsed(body) : body, 'request'));
  }
  const schema = operation.answers[status];
  if (status === 204 && answer !== '') problems.push(`${method} ${path}: a body with status 204`);
  if (schema && status === 200) problems.push(...schemaProblems(schema, parsed(answer), 'answer'));
  return problems;
}

/** `/drives/{drive_id}` as a pattern; a trailing slash changes nothing, nor do several in front. */
function pathPattern(path: string): RegExp {
  return new RegExp(`^${path.replace(/\{\w+\}/g, '[^/]+')}/?$`);
}

function parsed(text: string): unknown {
  return JSON.parse(text);
}
