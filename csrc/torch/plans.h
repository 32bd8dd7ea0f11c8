// What an operation is, apart from its tensors, read from text. A node keeps the text alone: it
// says everything, to Python and to a compiled backward too.
#pragma once
#include <cmath>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <sstream>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <vector>

#include <ATen/core/ivalue.h>

#include "../common/interface.h"

namespace fastgan {

inline std::vector<std::string> split(const std::string& text, char at) {
  std::vector<std::string> parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, at);) parts.push_back(part);
  return parts;
}

// The number of float.hex's words, such as -0x1.8p-3, in any locale; false for other words.
inline bool read_hexadecimal(const std::string& w, double* value) {
  size_t k = !w.empty() && w[0] == '-';
  if (w.compare(k, 2, "0x") != 0) return false;
  uint64_t mantissa = 0;
  int exponent = 0, digits = 0;
  bool fraction = false;
  for (k += 2; k < w.size() && w[k] != 'p'; ++k) {
    if (w[k] == '.') {
      fraction = true;
      continue;
    }
    int digit = w[k] >= '0' && w[k] <= '9'   ? w[k] - '0'
                : w[k] >= 'a' && w[k] <= 'f' ? w[k] - 'a' + 10
                                             : 16;
    if (digit == 16 || ++digits > 15) return false;
    mantissa = mantissa * 16 + uint64_t(digit);
    exponent -= fraction ? 4 : 0;
  }
  char* end = nullptr;
  long power = k + 1 < w.size() ? std::strtol(w.c_str() + k + 1, &end, 10) : 0;
  if (!end || *end || digits == 0 || power < -2000 || power > 2000) return false;
  *value = std::ldexp(double(mantissa), exponent + int(power)) * (w[0] == '-' ? -1.0 : 1.0);
  return true;
}

// The words of a text in turn, as numbers (which Python wrote with float.hex) or codes.
class Words {
 public:
  explicit Words(const std::string& text) : text_(text), stream_(text) {}

  std::string word() {
    std::string found;
    if (!(stream_ >> found)) refuse();
    return found;
  }
  double number() {
    double value = 0;
    if (!read_hexadecimal(word(), &value)) refuse();
    return value;
  }
  int code(int least, int limit) {
    std::string w = word();
    char* end = nullptr;
    long value = std::strtol(w.c_str(), &end, 10);
    if (*end || value < least || value >= limit) refuse();
    return int(value);
  }
  template <int n>
  int name(const char* const (&list)[n]) {
    std::string w = word();
    for (int k = 0; k < n; ++k)
      if (w == list[k]) return k;
    refuse();
  }
  bool more() {
    return bool(stream_ >> std::ws) && !stream_.eof();
  }

 private:
  const std::string text_;
  std::istringstream stream_;

  [[noreturn]] void refuse() const {
    throw std::invalid_argument("text: expected an operation as fastgan writes it, got '" + text_ +
                                "'");
  }
};

constexpr const char* reduction_names[] = {"none", "sum", "mean"};
constexpr const char* over_names[] = {"sample", "channel", "batch"};

// "reduction weights...;roles...;term;term...", as fastgan/ops/nodes.py writes it.
struct LossPlan {
  at::IValue text;
  Reduction reduction;
  std::vector<double> weights;
  Spec spec;

  explicit LossPlan(const std::string& given) : text(given) {
    std::vector<std::string> parts = split(given, ';');
    if (parts.size() < 3) throw std::invalid_argument("text: expected a loss, got '" + given + "'");
    Words first(parts[0]), roles(parts[1]);
    reduction = Reduction(first.name(reduction_names));
    if (reduction == Reduction::none)
      throw std::invalid_argument("text: expected a loss that is reduced, got '" + given + "'");
    while (first.more()) weights.push_back(first.number());
    while (roles.more()) spec.roles.push_back(Role(roles.code(0, 3)));
    int count = int(spec.roles.size());
    spec.is_mean_operand.resize(size_t(count));
    std::vector<bool> used(static_cast<size_t>(count));
    int most = weights.empty() ? 1 << 30 : int(weights.size());
    for (size_t k = 2; k < parts.size(); ++k) {
      Words w(parts[k]);
      Term t;
      t.phi = Phi(w.name(phi_names));
      t.scale = w.number(), t.shift = w.number(), t.linear = w.number(), t.weight = w.number();
      t.threshold = w.number();
      t.x = w.code(0, count), t.y = w.code(-1, count), t.mean_operand = w.code(-1, count);
      t.side = w.code(-1, 2), t.member = w.code(0, most), t.role = Role(w.code(0, 3));
      t.factor = w.code(-1, 0), t.label = w.code(-1, 0);  // constants go Python's way
      for (int j : {t.x, t.y}) {
        if (j < 0) continue;
        if (used[size_t(j)]) throw std::invalid_argument("text: an operand is in two terms");
        used[size_t(j)] = true;
      }
      if (t.mean_operand >= 0)
        spec.is_mean_operand[size_t(t.mean_operand)] = spec.subtracts_mean = true;
      spec.terms.push_back(t);
    }
    for (size_t j = 0; j < used.size(); ++j)
      if (!used[j] && !spec.is_mean_operand[j])
        throw std::invalid_argument("text: an operand is in no term");
  }

  int64_t buffer_size() const {
    return 2 * int64_t(spec.roles.size()) + int64_t(spec.terms.size()) + stat_count;
  }
};

// "psi target power scale over reduction"
struct PenaltyPlan {
  at::IValue text;
  Psi psi;
  double target;
  int power;
  double scale;
  int over;
  Reduction reduction;

  explicit PenaltyPlan(const std::string& given) : text(given) {
    Words w(given);
    psi = Psi(w.name(psi_names));
    target = w.number();
    power = w.code(1, max_power + 1);
    scale = w.number();
    over = w.name(over_names);
    reduction = Reduction(w.name(reduction_names));
  }
};

// The plan of a text; the last ones that were asked for are kept.
template <class Plan>
std::shared_ptr<const Plan> plan_of(const std::string& text) {
  static std::mutex mutex;
  static auto& known = *new std::unordered_map<std::string, std::shared_ptr<const Plan>>;
  std::lock_guard<std::mutex> lock(mutex);
  auto found = known.find(text);
  if (found != known.end()) return found->second;
  auto made = std::make_shared<const Plan>(text);
  if (known.size() >= 4096) known.clear();
  known.emplace(text, made);
  return made;
}

}  // namespace fastgan
